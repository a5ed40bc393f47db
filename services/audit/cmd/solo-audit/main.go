// Command solo-audit keeps the audit trail. The kernel starts it.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/services/audit"
)

func main() {
	os.Exit(daemon.Main(context.Background(), audit.Command(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
