// Solo-kernel starts all of Solo on this machine and keeps it running.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/kernel"
)

func main() {
	os.Exit(kernel.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
