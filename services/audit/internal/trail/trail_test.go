package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/services/audit/internal/backend"
	"github.com/solo-os/solo/services/audit/internal/file"
)

func publish(t *testing.T, js jetstream.JetStream, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if _, err := js.PublishAsync("audit.test.thing", fmt.Appendf(nil, `{"component":"test","event":"thing","object":"%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

// failing is a place that refuses its first calls.
type failing struct {
	backend.Backend
	left int
}

func (f *failing) Append(ctx context.Context, r []backend.Record) error {
	if f.left > 0 {
		f.left--
		return errors.New("the disk is full")
	}
	return f.Backend.Append(ctx, r)
}

type copying struct {
	*Copier
	stop func() error
}

func start(t *testing.T, js jetstream.JetStream, b backend.Backend) copying {
	t.Helper()
	c, err := NewCopier(Options{JS: js, Backend: b, Name: "test", Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Copy(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return errors.Join(<-ended, b.Close()) })
	t.Cleanup(func() { _ = stop() })
	return copying{c, stop}
}

func (c copying) reaches(t *testing.T, seq uint64) {
	t.Helper()
	for deadline := time.After(30 * time.Second); c.Cursor() < seq; {
		select {
		case <-deadline:
			t.Fatalf("stuck at %d of %d", c.Cursor(), seq)
		case <-time.After(time.Millisecond):
		}
	}
}

func place(t *testing.T, dir string) *file.Files {
	t.Helper()
	f, err := file.Open(file.Options{Dir: dir, MaxBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCopyResumesAtItsCursor(t *testing.T) {
	s, dir := jstest.New(t), t.TempDir()
	publish(t, s.JS, 1, 300)
	c := start(t, s.JS, &failing{place(t, dir), 2})
	c.reaches(t, 300)
	publish(t, s.JS, 301, 310)
	c.reaches(t, 310)
	if n := testutil.ToFloat64(c.records); n != 310 {
		t.Errorf("%v records counted", n)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	publish(t, s.JS, 311, 2500)
	c = start(t, s.JS, place(t, dir))
	c.reaches(t, 2500)
	// The server goes away and comes back in the middle.
	s.StopServer()
	s.StartServer()
	publish(t, s.JS, 2501, 2510)
	c.reaches(t, 2510)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if f := place(t, dir); f.Cursor() != 2510 {
		t.Error(f.Cursor())
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnotherStreamThanTheOneCopiedIsRefused(t *testing.T) {
	s, dir := jstest.New(t), t.TempDir()
	publish(t, s.JS, 1, 5)
	c := start(t, s.JS, place(t, dir))
	c.reaches(t, 5)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	other := jstest.New(t)
	f := place(t, dir)
	c2, err := NewCopier(Options{JS: other.JS, Backend: f, Name: "test", Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c2.Copy(t.Context()); err == nil {
		t.Error("copied on")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	s := jstest.New(t)
	r := &Reader{JS: s.JS, Log: slog.New(slog.DiscardHandler)}
	read := func(ctx context.Context, req *solov1.AuditRequest, each func(*solov1.AuditResponse) error) error {
		return r.Read(ctx, rpc.Caller{}, req, each)
	}
	if err := read(t.Context(), &solov1.AuditRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	publish(t, s.JS, 1, 500)
	if _, err := s.JS.Publish(t.Context(), "audit.test.thing", []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	next := uint64(101)
	check := func(m *solov1.AuditResponse) error {
		want := fmt.Sprint(next)
		if next == 501 {
			want = "audit.test.thing"
		}
		if m.GetSequence() != next || m.GetRecord().GetObject() != want {
			return fmt.Errorf("got %v, want %d", m, next)
		}
		next++
		return nil
	}
	if err := read(t.Context(), &solov1.AuditRequest{AfterSequence: 100}, check); err != nil || next != 502 {
		t.Fatal(next, err)
	}
	if err := read(t.Context(), &solov1.AuditRequest{AfterSequence: 501}, check); err != nil || next != 502 {
		t.Fatal(next, err)
	}
	// Following goes on with what comes, until the reader leaves.
	ctx, cancel := context.WithCancelCause(t.Context())
	gone, err := errors.New("gone"), error(nil)
	done := make(chan struct{})
	seen := make(chan uint64, 1)
	go func() {
		defer close(done)
		err = read(ctx, &solov1.AuditRequest{AfterSequence: 501, Follow: true}, func(m *solov1.AuditResponse) error { seen <- m.GetSequence(); return nil })
	}()
	for i := 502; i < 510; i++ {
		publish(t, s.JS, i, i)
		if seq := <-seen; seq != uint64(i) {
			t.Errorf("%d, want %d", seq, i)
		}
	}
	cancel(gone)
	if <-done; !errors.Is(err, gone) {
		t.Error(err)
	}
	full := errors.New("full")
	if err := read(t.Context(), &solov1.AuditRequest{Follow: true}, func(*solov1.AuditResponse) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
}
