package runner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

func BenchmarkCall(b *testing.B) {
	r := begin(b, true)
	r.place(r.request(wasm("acme/echo"), code.echo))
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.call("acme/echo", "x", "hello"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := r.call("acme/echo", "x", "hello"); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkPlace(b *testing.B) {
	for name, file := range map[string]string{"small": code.echo, "go": code.kitchen} {
		b.Run(name, func(b *testing.B) {
			r := begin(b, true)
			keep := r.request(wasm("acme/keep"), file)
			r.place(keep)
			req := r.request(wasm("acme/echo"), file)
			for i := uint64(1); b.Loop(); i++ {
				req.Epoch = i
				r.place(req)
				if _, err := r.call("acme/echo", "echo", "hello"); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				r.remove("acme/echo")
				b.StartTimer()
			}
		})
	}
}

// BenchmarkKilled is the time from the end of an instance to the next answer.
func BenchmarkKilled(b *testing.B) {
	r := begin(b, true)
	r.place(r.request(wasm("acme/kitchen"), code.kitchen))
	for b.Loop() {
		if _, err := r.call("acme/kitchen", "panic", "x"); err == nil {
			b.Fatal("no panic")
		}
		if _, err := r.call("acme/kitchen", "echo", "x"); err != nil {
			b.Fatal(fmt.Errorf("after a panic: %w", err))
		}
	}
}

// BenchmarkBesideSpinners is a call while eight guests of another service compute without end.
func BenchmarkBesideSpinners(b *testing.B) {
	r := begin(b, true)
	m := wasm("acme/kitchen")
	m.Replicas = 8
	r.place(r.request(m, code.kitchen))
	r.place(r.request(wasm("acme/echo"), code.echo))
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { _, _ = r.callAs(ctx, r.root, r.w.Root.ID, "acme/kitchen", "spin", "") })
	}
	r.eventually("all compute", func() bool {
		for _, i := range r.sample().GetPlacements() {
			if i.GetService() == "acme/kitchen" && i.GetMailboxDepth() > 0 {
				return false
			}
		}
		return true
	})
	for b.Loop() {
		if _, err := r.call("acme/echo", "x", "hello"); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
}
