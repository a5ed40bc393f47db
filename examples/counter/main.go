// Counter is a service in Go source: a number in keyed state, changed by compare-and-set, so
// that it counts right however many instances run and whenever one of them dies.
package main

import (
	"context"
	"strconv"

	"github.com/solo-os/solo/sdk/guest"
)

const key = "n"

func init() {
	guest.Handle("get", get)
	guest.Handle("add", add)
}

func get(ctx context.Context, _ []byte) ([]byte, error) {
	v, ok, err := guest.State().Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		v = []byte("0")
	}
	return v, nil
}

// add adds the payload, or 1, and answers with the sum.
func add(ctx context.Context, payload []byte) ([]byte, error) {
	by := int64(1)
	if len(payload) > 0 {
		n, err := strconv.ParseInt(string(payload), 10, 64)
		if err != nil {
			return nil, err
		}
		by = n
	}
	for {
		old, ok, err := guest.State().Get(ctx, key)
		if err != nil {
			return nil, err
		}
		n := int64(0)
		if !ok {
			old = nil // compare-and-set against "not there yet"
		} else if n, err = strconv.ParseInt(string(old), 10, 64); err != nil {
			return nil, err
		}
		sum := []byte(strconv.FormatInt(n+by, 10))
		swapped, err := guest.State().CompareAndSet(ctx, key, old, sum)
		if err != nil {
			return nil, err
		}
		if swapped {
			return sum, nil
		}
	}
}

func main() {}
