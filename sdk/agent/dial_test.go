package agent

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/internal/standin"
	"google.golang.org/grpc/connectivity"
)

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func client(t *testing.T, addr string) *Client {
	t.Helper()
	h, _, err := NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), Options{Addr: addr, Handle: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// A call, which is never repeated, waits for a gateway that is being restarted.
func TestACallWaitsForAListener(t *testing.T) {
	addr := free(t)
	c := client(t, addr)
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), "acme/echo", "echo", nil)
		done <- err
	}()
	for s := c.conn.GetState(); s != connectivity.TransientFailure; s = c.conn.GetState() {
		c.conn.WaitForStateChange(t.Context(), s)
	}
	standin.StartAt(t, addr)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNobodyListens(t *testing.T) {
	c := client(t, free(t))
	ctx, cancel := context.WithTimeout(t.Context(), readyWait/10)
	defer cancel()
	_, err := c.Call(ctx, "acme/echo", "echo", nil)
	if f := fault.From(err); f.Reason != fault.ReasonUnavailable || !f.Retryable || !strings.Contains(f.Message, "nobody listens at 127.0.0.1:") {
		t.Error(err)
	}
	for _, err := range c.Logs(ctx, nil) {
		if !fault.Is(err, fault.ReasonUnavailable) {
			t.Error(err)
		}
	}
}

// The caller's own deadline reads like one of Solo's.
func TestTheCallersDeadline(t *testing.T) {
	c := client(t, standin.Start(t).Addr)
	ctx, cancel := context.WithTimeout(t.Context(), readyWait/10)
	defer cancel()
	if _, err := c.Call(ctx, "acme/echo", "slow", nil); !fault.Is(err, fault.ReasonDeadlineExceeded) || strings.Contains(err.Error(), "context") {
		t.Error(err)
	}
}
