// Command solo-runner hosts the instances of one namespace.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/deployer/internal/runner"
)

func main() {
	os.Exit(runner.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
