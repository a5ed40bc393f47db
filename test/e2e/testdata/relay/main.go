// Relay is a service that calls another one with the rights that it was given.
package main

import (
	"context"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("add", func(ctx context.Context, payload []byte) ([]byte, error) {
		return guest.Call(ctx, "alice/counter", "add", payload)
	})
}

func main() {}
