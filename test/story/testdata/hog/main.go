// A service that misbehaves on request: `spin` never ends, `eat` takes memory without end.
package main

import (
	"context"

	"github.com/solo-os/solo/sdk/guest"
)

var kept [][]byte

func init() {
	guest.Handle("ok", func(context.Context, []byte) ([]byte, error) { return []byte("ok"), nil })
	guest.Handle("spin", func(context.Context, []byte) ([]byte, error) {
		for n := 0; ; n++ {
			if n < 0 {
				return nil, nil
			}
		}
	})
	guest.Handle("eat", func(context.Context, []byte) ([]byte, error) {
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	})
}

func main() {}
