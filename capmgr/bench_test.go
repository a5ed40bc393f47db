package capmgr_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// percentiles reports what single calls took.
func percentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// populate grants n capabilities in a tree below a holder, fan wide.
func populate(b *testing.B, w *bustest.World, from holder, n, fan int) {
	b.Helper()
	type todo struct {
		holder
		depth uint32
	}
	level := []todo{{from, 15}}
	for made := 0; made < n; {
		var next []todo
		for _, t := range level {
			for range min(fan, n-made) {
				key := bustest.NewHandle(b)
				req := &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/*=*"}, Depth: t.depth - 1, PublicKey: key.ID}
				if _, err := t.try(b, req); err != nil {
					b.Fatal(err)
				}
				made++
				// Only those that grant on need a connection.
				if made*fan < n {
					next = append(next, todo{dial(b, w, key), t.depth - 1})
				}
			}
			if made >= n {
				return
			}
		}
		level = next
	}
}

// BenchmarkGrantAndRevoke runs beside 10,000 live capabilities; what is revoked has
// a live connection. Last it revokes them all together.
func BenchmarkGrantAndRevoke(b *testing.B) {
	w, root := start(b)
	crowd := root.grant(b, w, 15, "svc:*/*=*")
	populate(b, w, crowd, 10_000, 100)
	b.Run("grant", func(b *testing.B) {
		var took []time.Duration
		for range b.N {
			key := bustest.NewHandle(b)
			begun := time.Now()
			if _, err := root.try(b, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, PublicKey: key.ID}); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		percentiles(b, took)
	})
	b.Run("grant idempotent", func(b *testing.B) {
		var took []time.Duration
		for i := range b.N {
			key := bustest.NewHandle(b)
			begun := time.Now()
			if _, err := root.try(b, &solov1.GrantCapabilityRequest{RequestId: fmt.Sprint(b.N, i), Rules: []string{"svc:x/y=status"}, PublicKey: key.ID}); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		percentiles(b, took)
	})
	b.Run("revoke", func(b *testing.B) {
		var took []time.Duration
		for range b.N {
			v := root.grant(b, w, 0, "svc:x/y=status")
			begun := time.Now()
			if _, err := root.revoke(b, v.ID); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		percentiles(b, took)
	})
	begun := time.Now()
	resp, err := root.revoke(b, crowd.ID)
	if err != nil || resp.GetRevokedCount() < 10_000 {
		b.Fatal(resp, err)
	}
	fmt.Printf("a tree of %d revoked in %s\n", resp.GetRevokedCount(), time.Since(begun))
}
