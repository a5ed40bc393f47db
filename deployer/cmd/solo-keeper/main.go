// Command solo-keeper holds the state of a node's services.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/deployer/internal/keeper"
)

func main() {
	os.Exit(keeper.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
