package main

import (
	"context"
	"errors"
	"testing"

	"github.com/solo-os/solo/sdk/guest"
)

// Outside of Solo there is no state: the service must say so and not count in thin air.
func TestWithoutAHost(t *testing.T) {
	if _, err := get(context.Background(), nil); !errors.Is(err, guest.ErrNoHost) {
		t.Errorf("get: %v", err)
	}
	if _, err := add(context.Background(), []byte("2")); !errors.Is(err, guest.ErrNoHost) {
		t.Errorf("add: %v", err)
	}
	if _, err := add(context.Background(), []byte("two")); err == nil || errors.Is(err, guest.ErrNoHost) {
		t.Errorf("add two: %v", err)
	}
}
