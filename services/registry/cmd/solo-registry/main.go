// Command solo-registry is the component that knows what is deployed.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/services/registry"
)

func main() {
	os.Exit(daemon.Main(context.Background(), registry.Command(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
