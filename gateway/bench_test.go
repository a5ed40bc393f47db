package gateway_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/gateway"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/agent"
)

// percentiles reports the spread of latencies in microseconds.
func percentiles(b *testing.B, all []time.Duration) {
	b.Helper()
	slices.Sort(all)
	for _, p := range []struct {
		of   int
		name string
	}{{50, "p50-µs"}, {99, "p99-µs"}} {
		b.ReportMetric(float64(all[(len(all)-1)*p.of/100].Nanoseconds())/1e3, p.name)
	}
}

// load makes b.N calls from n callers at once, each with do of its own.
func load(b *testing.B, n int, do func(caller int) error) {
	b.Helper()
	times := make([][]time.Duration, n)
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range n {
		wg.Go(func() {
			for k := i; k < b.N; k += n {
				begin := time.Now()
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
				times[i] = append(times[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	percentiles(b, slices.Concat(times...))
}

// Calls through gRPC, gateway and bus by concurrent clients, each with a handle of its own,
// beside the same calls over the bus alone.
func BenchmarkCall(b *testing.B) {
	w := start(b, gateway.Config{})
	w.serve(b, "acme/echo", func(_ string, m *nats.Msg) { _ = m.Respond(m.Data) })
	payload := []byte("0123456789abcdef")
	for _, n := range []int{1, 8, 64} {
		clients := make([]*agent.Client, n)
		conns := make([]*nats.Conn, n)
		subjects := make([]string, n)
		for i := range n {
			h := w.grant(b, "svc:acme/*=call:*")
			clients[i], conns[i] = w.client(b, h), w.Dial(b, h)
			subjects[i] = subject.Call(subject.Service{Namespace: "acme", Name: "echo"}, "say", h.ID)
			if _, err := clients[i].Call(b.Context(), "acme/echo", "say", payload); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("gateway/clients=%d", n), func(b *testing.B) {
			load(b, n, func(i int) error {
				_, err := clients[i].Call(b.Context(), "acme/echo", "say", payload)
				return err
			})
		})
		b.Run(fmt.Sprintf("bus/clients=%d", n), func(b *testing.B) {
			load(b, n, func(i int) error {
				_, err := conns[i].RequestWithContext(b.Context(), subjects[i], payload)
				return err
			})
		})
	}
}
