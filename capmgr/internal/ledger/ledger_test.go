package ledger

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// store is a server with a chain.
type store struct {
	*jstest.Server
	t    *testing.T
	seed string
	pub  string
	root string
}

func key(t testing.TB) (id, seed string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	s, err1 := kp.Seed()
	id, err2 := kp.PublicKey()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return id, string(s)
}

func newStore(t *testing.T) *store {
	s := &store{Server: jstest.New(t), t: t}
	s.pub, s.seed = key(t)
	s.root, _ = key(t)
	return s
}

func (s *store) head() string { return filepath.Join(s.Dir, "caps.head") }

// fence is the far end of fence.apply: a table that takes what follows, and can be told to fail.
type fence struct {
	mu    sync.Mutex
	table *gate.Table
	fails int // mu; tries that fail before one succeeds, -1 for all
	tries int // mu
	cut   uint32
}

func (f *fence) apply(_ context.Context, r *kernelv1.FenceApplyRequest) (*kernelv1.FenceApplyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.fails != 0 {
		f.fails--
		return nil, errors.New("the fence is away")
	}
	died, err := f.table.Apply(r.GetEvents())
	cut := uint32(0)
	if len(died) > 0 {
		cut = f.cut
	}
	return &kernelv1.FenceApplyResponse{ConnectionsCut: cut}, err
}

func (f *fence) set(fails int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

func (s *store) open(f *fence) (*Ledger, error) {
	return Open(s.t.Context(), Options{
		JS: s.JS, ChainSeed: s.seed, HeadPath: s.head(), RootID: s.root, FenceSequence: f.table.Sequence(),
		Fence: f.apply, Log: slog.New(slog.DiscardHandler),
	})
}

// run opens a ledger and runs it until stop is called, which returns what Run returned.
func (s *store) run(f *fence) (l *Ledger, stop func() error) {
	s.t.Helper()
	l, err := s.open(f)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	s.t.Cleanup(func() { _ = stop() })
	return l, stop
}

func grantEvent(id, parent string) *kernelv1.CapEvent {
	return Granted(&kernelv1.CapRecord{
		Id: id, Parent: parent, Rules: []string{"svc:a/b=status"}, Depth: 1, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
		ExpiresAt: timestamppb.New(time.Now().Add(time.Hour)),
	}, time.Now())
}

func grant(t *testing.T, l *Ledger, parent string) string {
	t.Helper()
	id, _ := key(t)
	if _, err := l.Do(t.Context(), func(*State) ([]*kernelv1.CapEvent, error) {
		return []*kernelv1.CapEvent{grantEvent(id, parent)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestChainSurvivesRestarts(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable(), cut: 3}
	l, stop := s.run(f)
	child := grant(t, l, s.root)
	grandchild := grant(t, l, child)
	if d := f.table.Live(grandchild); d != gate.Allowed {
		t.Fatal("answered before the fence knew", d)
	}
	r, err := l.Do(t.Context(), func(*State) ([]*kernelv1.CapEvent, error) {
		return []*kernelv1.CapEvent{Revoked(child, s.root, time.Now())}, nil
	})
	if err != nil || len(r.Died) != 2 || r.Died[0] != child || r.ConnectionsCut != 3 {
		t.Fatalf("%+v %v", r, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Start()
	f2 := &fence{table: gate.NewTable()}
	l, _ = s.run(f2)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []*gate.Table{l.State().Table, f2.table} {
		if table.Sequence() != 4 || table.Live(child) != gate.Revoked || table.Live(grandchild) != gate.Revoked || table.Live(s.root) != gate.Allowed {
			t.Fatal(table.Sequence(), table.Live(child), table.Live(grandchild), table.Live(s.root))
		}
	}
}

func TestCrashBetweenRecordAndFence(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable()}
	l, stop := s.run(f)
	child := grant(t, l, s.root)
	f.set(-1)
	answered := make(chan error, 1)
	go func() {
		_, err := l.Do(context.Background(), func(*State) ([]*kernelv1.CapEvent, error) {
			return []*kernelv1.CapEvent{Revoked(child, s.root, time.Now())}, nil
		})
		answered <- err
	}()
	for f.tried() < 4 {
		select {
		case err := <-answered:
			t.Fatal("answered though the fence did not know:", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := stop(); !errors.Is(err, context.Canceled) { // it gives the fence a grace, then leaves it to the next start
		t.Fatal(err)
	}
	if err := <-answered; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if f.table.Live(child) != gate.Allowed {
		t.Fatal("the fence should be behind")
	}
	f.set(2)
	l, _ = s.run(f)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.table.Live(child) != gate.Revoked {
		t.Error("the fence was not brought up to the chain")
	}
	if _, err := l.Do(t.Context(), func(*State) ([]*kernelv1.CapEvent, error) { return nil, errors.New("no") }); err == nil || err.Error() != "no" {
		t.Error(err)
	}
}

func (f *fence) tried() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tries
}

func TestGroupsKeepOrderAndCuts(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable(), cut: 7}
	l, _ := s.run(f)
	var wg sync.WaitGroup
	ids := make([]string, 40)
	for i := range ids {
		wg.Go(func() {
			id, _ := key(t)
			ids[i] = id
			if _, err := l.Do(context.Background(), func(*State) ([]*kernelv1.CapEvent, error) {
				return []*kernelv1.CapEvent{grantEvent(id, s.root)}, nil
			}); err != nil {
				t.Error(err)
			}
			if f.table.Live(id) != gate.Allowed {
				t.Error("answered before the fence knew")
			}
		})
	}
	wg.Wait()
	if n := f.tried(); n >= 41 {
		t.Errorf("%d messages to the fence for 41 records: nothing went together", n)
	}
	for i := range ids {
		wg.Go(func() {
			r, err := l.Do(context.Background(), func(*State) ([]*kernelv1.CapEvent, error) {
				return []*kernelv1.CapEvent{Revoked(ids[i], s.root, time.Now())}, nil
			})
			if err != nil || len(r.Died) != 1 || r.ConnectionsCut != 7 {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
	wg.Wait()
	if f.table.Sequence() != 81 || l.State().Table.Sequence() != 81 {
		t.Error(f.table.Sequence(), l.State().Table.Sequence())
	}
}

func TestDeadlineBeforeItsTurnChangesNothing(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable()}
	l, _ := s.run(f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Do(ctx, func(*State) ([]*kernelv1.CapEvent, error) {
		return []*kernelv1.CapEvent{Revoked(s.root, "", time.Now())}, nil
	})
	if !fault.Is(err, fault.ReasonDeadlineExceeded) || l.State().Table.Live(s.root) != gate.Allowed {
		t.Error(err)
	}
}

func TestBusAwayAndBack(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable()}
	l, _ := s.run(f)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.StopServer()
	id, _ := key(t)
	answered := make(chan error, 1)
	go func() {
		_, err := l.Do(context.Background(), func(*State) ([]*kernelv1.CapEvent, error) {
			return []*kernelv1.CapEvent{grantEvent(id, s.root)}, nil
		})
		answered <- err
	}()
	s.StartServer()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if f.table.Live(id) != gate.Allowed {
		t.Error("not granted")
	}
}

func TestForeignRecordEndsTheLedger(t *testing.T) {
	s, f := newStore(t), &fence{table: gate.NewTable()}
	l, stop := s.run(f)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.JS.Publish(t.Context(), "caps.events", []byte("foreign")); err != nil {
		t.Fatal(err)
	}
	id, _ := key(t)
	_, err := l.Do(t.Context(), func(*State) ([]*kernelv1.CapEvent, error) {
		return []*kernelv1.CapEvent{grantEvent(id, s.root)}, nil
	})
	if !errors.Is(err, ErrClosed) || f.table.Live(id) != gate.Unknown {
		t.Error(err)
	}
	if err := stop(); !errors.Is(err, caps.ErrBroken) {
		t.Error(err)
	}
	if _, err := l.Do(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestBrokenStoresAreRefused(t *testing.T) {
	build := func(t *testing.T) *store {
		s, f := newStore(t), &fence{table: gate.NewTable()}
		l, stop := s.run(f)
		for range 5 {
			grant(t, l, s.root)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, harm := range map[string]func(*testing.T, *store){
		"head cut short": func(t *testing.T, s *store) { must(t, os.Truncate(s.head(), 20)) },
		"head gone":      func(t *testing.T, s *store) { must(t, os.Remove(s.head())) },
		"flipped byte in the stream's file": func(t *testing.T, s *store) {
			s.Stop()
			flip(t, s.Dir)
			s.Start()
		},
		"an old copy of the store": func(t *testing.T, s *store) {
			kp, err := nkeys.FromSeed([]byte(s.seed))
			must(t, err)
			must(t, caps.SaveHead(s.head(), kp, caps.Link{Sequence: 9}))
		},
		"another chain key": func(t *testing.T, s *store) { s.pub, s.seed = key(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s := build(t)
			harm(t, s)
			if _, err := s.open(&fence{table: gate.NewTable()}); !errors.Is(err, caps.ErrBroken) {
				t.Errorf("opened: %v", err)
			}
		})
	}
	t.Run("fence ahead of the store", func(t *testing.T) {
		s := build(t)
		f := &fence{table: gate.NewTable()}
		o := Options{JS: s.JS, ChainSeed: s.seed, HeadPath: s.head(), RootID: s.root, FenceSequence: 99, Fence: f.apply, Log: slog.New(slog.DiscardHandler)}
		if _, err := Open(t.Context(), o); !errors.Is(err, caps.ErrBroken) {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("another root", func(t *testing.T) {
		s := build(t)
		s.root, _ = key(t)
		if _, err := s.open(&fence{table: gate.NewTable()}); err == nil {
			t.Error("opened")
		}
	})
	t.Run("no chain key", func(t *testing.T) {
		s := build(t)
		s.seed = "no"
		if _, err := s.open(&fence{table: gate.NewTable()}); err == nil {
			t.Error("opened")
		}
	})
}

// flip changes one byte of a record in the block file of stream CAPS.
func flip(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream.Caps, "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	must(t, err)
	i := strings.LastIndex(string(b), "svc:a/b=status")
	if i < 0 {
		t.Fatal("no record in the block")
	}
	b[i] ^= 1
	must(t, os.WriteFile(files[0], b, 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
