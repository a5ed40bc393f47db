// Solo-deployer makes services run: it takes code, builds and checks it, and keeps what should run
// running. The kernel starts it.
package main

import (
	"context"
	"os"

	"github.com/solo-os/solo/deployer"
)

func main() {
	os.Exit(deployer.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
