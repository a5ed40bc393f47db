// Command solo-gateway is the component that speaks gRPC to the world.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/gateway"
)

func main() {
	os.Exit(daemon.Main(context.Background(), gateway.Command(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
