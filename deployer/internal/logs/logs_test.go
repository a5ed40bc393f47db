package logs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/deployer/internal/logs"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func line(service, instance string, n int) *solov1.LogRecord {
	return &solov1.LogRecord{Service: service, Instance: instance, Stream: "stdout", Line: fmt.Sprint(n)}
}

// publish publishes what fill adds and returns when it is in the stream.
func publish(t *testing.T, s *jstest.Server, fill func(*logs.Publisher)) prometheus.Gatherer {
	t.Helper()
	reg := prometheus.NewRegistry()
	p := logs.NewPublisher(s.JS, slog.New(slog.DiscardHandler), reg)
	fill(p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Run(ctx) // what is left is published at the end
	return reg
}

func read(t *testing.T, s *jstest.Server, q logs.Query) (lines []string) {
	t.Helper()
	last := uint64(0)
	err := logs.Read(t.Context(), s.JS, q, func(r *solov1.LogRecord) error {
		if r.GetSequence() <= last {
			t.Errorf("sequence %d after %d", r.GetSequence(), last)
		}
		last = r.GetSequence()
		lines = append(lines, r.GetLine())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestTail(t *testing.T) {
	s := jstest.New(t)
	acme := subject.Service{Namespace: "acme", Name: "a"}
	if got := read(t, s, logs.Query{Service: acme}); len(got) != 0 {
		t.Errorf("%v", got)
	}
	publish(t, s, func(p *logs.Publisher) {
		for i := range 1000 {
			p.Add(line("acme/a", "i1", i))
			if i%10 == 0 {
				p.Add(line("acme/b", "i2", i))
			}
		}
		p.Add(line("acme/a", "i9", 9999))
		p.Add(&solov1.LogRecord{Service: "nonsense", Instance: "x"})
		p.Add(&solov1.LogRecord{Service: "acme/a", Instance: "a.b"})
	})
	for _, n := range []int{1, 2, 7, 100, 500, 1001} {
		got := read(t, s, logs.Query{Service: acme, Tail: n})
		if len(got) != n || got[n-1] != "9999" {
			t.Errorf("tail %d: %d lines, the last %q", n, len(got), got[len(got)-1])
		}
	}
	if got := read(t, s, logs.Query{Service: acme}); len(got) != logs.DefaultTail {
		t.Errorf("%d lines by default", len(got))
	}
	if got := read(t, s, logs.Query{Service: acme, Tail: 10_000}); len(got) != 1001 || got[0] != "0" {
		t.Errorf("%d lines", len(got))
	}
	if got := read(t, s, logs.Query{Service: subject.Service{Namespace: "acme", Name: "b"}, Tail: 3}); strings.Join(got, " ") != "970 980 990" {
		t.Errorf("%v", got)
	}
	if got := read(t, s, logs.Query{Service: acme, Instance: "i9"}); strings.Join(got, " ") != "9999" {
		t.Errorf("%v", got)
	}
	if got := read(t, s, logs.Query{Service: subject.Service{Namespace: "acme", Name: subject.None}, Tail: 5000}); len(got) != 1101 {
		t.Errorf("%d lines of the namespace", len(got))
	}
	if err := logs.Read(t.Context(), s.JS, logs.Query{Service: acme, Instance: ">"}, nil); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Error(err)
	}
}

// TestTailOfABusyLog reads the end of a log that is being written.
func TestTailOfABusyLog(t *testing.T) {
	s := jstest.New(t)
	acme := subject.Service{Namespace: "acme", Name: "a"}
	publish(t, s, func(p *logs.Publisher) {
		for i := range 300 {
			p.Add(line("acme/a", "i1", i))
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		p := logs.NewPublisher(s.JS, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		for i := 300; ctx.Err() == nil; i++ {
			p.Add(line("acme/a", "i1", i))
			done, end := context.WithCancel(ctx)
			end()
			p.Run(done)
		}
	})
	defer wg.Wait()
	defer cancel()
	for _, n := range []int{1, 3, 50} {
		for range 6 {
			if got := read(t, s, logs.Query{Service: acme, Tail: n}); len(got) != n {
				t.Fatalf("tail %d: %d lines", n, len(got))
			}
		}
	}
}

func TestFollow(t *testing.T) {
	s := jstest.New(t)
	p := logs.NewPublisher(s.JS, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	p.Add(line("acme/a", "i", 0))
	enough := errors.New("enough")
	next := 0
	err := logs.Read(ctx, s.JS, logs.Query{Service: subject.Service{Namespace: "acme", Name: "a"}, Follow: true}, func(r *solov1.LogRecord) error {
		if r.GetLine() != fmt.Sprint(next) {
			t.Errorf("%q, want %d", r.GetLine(), next)
		}
		if next++; next == 50 {
			return enough
		}
		p.Add(line("acme/a", "i", next))
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	stop, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if err := logs.Read(stop, s.JS, logs.Query{Service: subject.Service{Namespace: "acme", Name: "none"}, Follow: true}, nil); err == nil {
		t.Error("following ended without an error")
	}
}

func TestANoisyServiceLosesItsOwnOldestLines(t *testing.T) {
	s := jstest.New(t)
	reg := publish(t, s, func(p *logs.Publisher) {
		p.Add(line("acme/quiet", "i", 1))
		for i := range 5000 {
			p.Add(line("acme/noisy", "i", i))
		}
		p.Add(line("acme/quiet", "i", 2))
		big := strings.Repeat("x", 600<<10)
		for range 3 {
			p.Add(&solov1.LogRecord{Service: "acme/big", Instance: "i", Line: big})
		}
	})
	if got := read(t, s, logs.Query{Service: subject.Service{Namespace: "acme", Name: "quiet"}}); strings.Join(got, " ") != "1 2" {
		t.Errorf("%v", got)
	}
	got := read(t, s, logs.Query{Service: subject.Service{Namespace: "acme", Name: "noisy"}, Tail: 10_000})
	if len(got) != 2049 || got[len(got)-1] != "4999" || !strings.Contains(got[0], "2952 lines are missing") {
		t.Errorf("%d lines, first %q", len(got), got[0])
	}
	if got := read(t, s, logs.Query{Service: subject.Service{Namespace: "acme", Name: "big"}}); len(got) != 2 {
		t.Errorf("%d lines", len(got))
	}
	if n, err := testutil.GatherAndCount(reg, "solo_log_lines_dropped_total"); err != nil || n != 1 {
		t.Error(n, err)
	}
}

func TestLinesWaitForTheBus(t *testing.T) {
	s := jstest.New(t)
	p := logs.NewPublisher(s.JS, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	s.StopServer()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	for i := range 10 {
		p.Add(line("acme/a", "i", i))
	}
	s.StartServer()
	err := logs.Read(t.Context(), s.JS, logs.Query{Service: subject.Service{Namespace: "acme", Name: "a"}, Follow: true}, func(r *solov1.LogRecord) error {
		if r.GetLine() == "9" {
			return context.Canceled
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}
