// Command solo-capmgr is the capability manager. The kernel starts it.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/capmgr"
)

func main() {
	os.Exit(daemon.Main(context.Background(), capmgr.Command(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
