package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry/internal/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const patience = 20 * time.Second

var billing = subject.Service{Namespace: "acme", Name: "billing"}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func bucket(t *testing.T, s *jstest.Server) jetstream.KeyValue {
	t.Helper()
	kv, err := s.JS.KeyValue(within(t), stream.Registry)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func open(t *testing.T, kv jetstream.KeyValue) *store.Store {
	t.Helper()
	st, err := store.Open(within(t), kv, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st
}

func reg(revision uint64) *kernelv1.Registration {
	return &kernelv1.Registration{Name: billing.String(), Revision: revision}
}

func wantFault(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != code || f.Reason != reason || !f.Retryable {
		t.Fatalf("error %v, want %s %s", err, code, reason)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never comes: %s", what)
		}
	}
}

func TestAnotherWriterIsNoticed(t *testing.T) {
	s := jstest.New(t)
	kv := bucket(t, s)
	st := open(t, kv)
	rev, err := st.Put(within(t), reg(1), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(reg(7))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := kv.Update(within(t), "svc.acme.billing", b, rev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Put(within(t), reg(2), rev, func(store.Entry, store.Entry) { t.Error("a lost write was told of") })
	wantFault(t, err, codes.Aborted, fault.ReasonConflict)
	if e, ok := st.Get(billing); !ok || e.Revision != theirs || e.Registration.GetRevision() != 7 {
		t.Errorf("%+v", e)
	}
	// A deletion by another is seen without asking.
	if err := kv.Delete(within(t), "svc.acme.billing"); err != nil {
		t.Fatal(err)
	}
	until(t, "the deletion", func() bool { _, ok := st.Get(billing); return !ok })
	if _, err := st.Put(within(t), reg(3), 0, nil); err != nil {
		t.Fatal(err)
	}
}

func TestUnreadableRegistrations(t *testing.T) {
	s := jstest.New(t)
	kv := bucket(t, s)
	for key, value := range map[string]string{"svc.acme.billing": "\xff\xff", "svc.acme.alias": "\n\x0cacme/billing", "svc.Not.a.service": "", "other": ""} {
		if _, err := kv.Put(within(t), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	st := open(t, kv)
	if st.Len() != 2 {
		t.Errorf("%d registrations", st.Len())
	}
	for _, name := range []string{"billing", "alias"} {
		svc := subject.Service{Namespace: "acme", Name: name}
		e, ok := st.Get(svc)
		if !ok || e.Err == nil || e.Registration != nil {
			t.Errorf("%+v", e)
		}
		if err := st.Delete(within(t), svc, 0, nil); err != nil {
			t.Error(err)
		}
	}
	if _, err := st.Put(within(t), reg(1), 0, nil); err != nil {
		t.Errorf("after the deletion: %v", err)
	}
}

// lossy is the real bucket on a line that loses answers.
type lossy struct {
	jetstream.KeyValue
	mu   sync.Mutex
	lose int // mu; so many answers
}

func (l *lossy) answer() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lose > 0 {
		l.lose--
		return context.DeadlineExceeded
	}
	return nil
}

func (l *lossy) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	rev, err := l.KeyValue.Create(ctx, key, value, opts...)
	return rev, errors.Join(err, l.answer())
}

func (l *lossy) Update(ctx context.Context, key string, value []byte, last uint64) (uint64, error) {
	rev, err := l.KeyValue.Update(ctx, key, value, last)
	return rev, errors.Join(err, l.answer())
}

func (l *lossy) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	return errors.Join(l.KeyValue.Delete(ctx, key, opts...), l.answer())
}

// A write whose answer was lost has happened, and counts.
func TestLostAnswers(t *testing.T) {
	s := jstest.New(t)
	kv := &lossy{KeyValue: bucket(t, s)}
	st := open(t, kv)
	losing := func() {
		kv.mu.Lock()
		defer kv.mu.Unlock()
		kv.lose = 1
	}
	losing()
	told := 0
	first, err := st.Put(within(t), reg(1), 0, func(before, now store.Entry) { told++ })
	if err != nil || told != 1 {
		t.Fatal(err, told)
	}
	losing()
	second, err := st.Put(within(t), reg(2), first, func(before, now store.Entry) {
		if told++; before.Revision != first || now.Revision <= first {
			t.Errorf("%+v, then %+v", before, now)
		}
	})
	if err != nil || told != 2 || second <= first {
		t.Fatal(err, told)
	}
	losing()
	if err := st.Delete(within(t), billing, second, func(store.Entry) { told++ }); err != nil || told != 3 {
		t.Fatal(err, told)
	}
	if _, ok := st.Get(billing); ok {
		t.Error("it is still there")
	}
}

// While the store is away writes fail, say that they can be repeated, and change nothing;
// reads go on. Afterwards the same write succeeds.
func TestStoreAway(t *testing.T) {
	s := jstest.New(t)
	st := open(t, bucket(t, s))
	rev, err := st.Put(within(t), reg(1), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.StopServer()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = st.Put(short, reg(2), rev, nil)
	wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable)
	wantFault(t, st.Delete(short, billing, rev, nil), codes.Unavailable, fault.ReasonUnavailable)
	if e, ok := st.Get(billing); !ok || e.Registration.GetRevision() != 1 {
		t.Errorf("%+v", e)
	}
	s.StartServer()
	until(t, "the store", func() bool {
		_, err = st.Put(within(t), reg(2), rev, nil)
		if err != nil {
			wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable)
		}
		return err == nil
	})
}

// Of writers that race for one revision, one wins, in the store and in memory.
func TestRace(t *testing.T) {
	s := jstest.New(t)
	st := open(t, bucket(t, s))
	rev, err := st.Put(within(t), reg(0), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	const rounds, writers = 20, 8
	for range rounds {
		results := make(chan error, writers)
		for i := range writers {
			go func() {
				_, err := st.Put(within(t), reg(uint64(i)), rev, nil)
				results <- err
			}()
		}
		won := 0
		for range writers {
			if err := <-results; err == nil {
				won++
			} else {
				wantFault(t, err, codes.Aborted, fault.ReasonConflict)
			}
		}
		if won != 1 {
			t.Fatalf("%d won", won)
		}
		e, _ := st.Get(billing)
		if e.Revision <= rev {
			t.Fatalf("at %d after %d", e.Revision, rev)
		}
		rev = e.Revision
	}
	kept, err := bucket(t, s).Get(within(t), "svc.acme.billing")
	if err != nil || kept.Revision() != rev {
		t.Errorf("%v %v", kept, err)
	}
}

func TestAfter(t *testing.T) {
	s := jstest.New(t)
	st := open(t, bucket(t, s))
	for _, name := range []string{"b/b", "a/a", "c/c", "b/a"} {
		if _, err := st.Put(within(t), &kernelv1.Registration{Name: name}, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	names := func(after string, n int, ns string) (out []string) {
		for _, e := range st.After(after, n, func(e store.Entry) bool { return ns == "" || e.Service.Namespace == ns }) {
			out = append(out, e.Service.String())
		}
		return out
	}
	for want, got := range map[string][]string{
		"[a/a b/a b/b c/c]": names("", 9, ""), "[a/a b/a]": names("", 2, ""), "[b/b c/c]": names("b/a", 9, ""),
		"[b/b]": names("b/a", 9, "b"), "[]": names("c/c", 9, ""), "[c/c]": names("bb", 9, ""),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}
