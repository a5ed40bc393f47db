// Command solo-resmon is the component that watches what services use.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/resmon"
)

func main() {
	os.Exit(daemon.Main(context.Background(), resmon.Command(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
