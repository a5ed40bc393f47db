// Package store keeps every registration: durable in the KV bucket `registry`, and whole in
// memory, from where all reads are answered.
//
// One Store is the only writer of its bucket. Writes are compare-and-set on the revision of
// the key, so a writer that lost its place (frozen, replaced, thawed) cannot overwrite. The
// memory never goes back: an update older than what was seen is dropped. When the outcome of
// a write is not known, the key is read again before the write is judged.
//
// Locks: a key's lock is taken before mu; mu is a leaf.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	// maxBytes bounds one stored registration; the bucket's own bound is 1 MiB.
	maxBytes = 1<<20 - 4<<10
	// maxRevisions is how many revisions a registration may keep.
	maxRevisions = 10
	// settleTimeout bounds reading a key again after a write with an unknown outcome.
	settleTimeout = 2 * time.Second

	lockCount = 64
	prefix    = "svc."
)

// Entry is one registration as stored.
type Entry struct {
	Service subject.Service
	// Registration is shared and must not be changed. It is nil when Err is set.
	Registration *kernelv1.Registration
	// Revision of the KV key.
	Revision uint64
	// Err says that the stored bytes are unreadable.
	Err error
}

// Store is safe for concurrent use.
type Store struct {
	kv    jetstream.KeyValue
	log   *slog.Logger
	seed  maphash.Seed
	locks [lockCount]sync.Mutex // one writer a key; by hash of the name
	watch jetstream.KeyWatcher
	done  chan struct{}

	mu      sync.RWMutex
	entries map[string]Entry  // mu; by namespace/name
	names   []string          // mu; keys of entries, sorted
	seen    map[string]uint64 // mu; newest revision seen, kept for deleted keys until the deletion was watched
}

// Open loads the bucket and follows it until Close. ctx bounds the loading.
func Open(ctx context.Context, kv jetstream.KeyValue, log *slog.Logger) (*Store, error) {
	s := &Store{kv: kv, log: log, seed: maphash.MakeSeed(), done: make(chan struct{}), entries: map[string]Entry{}, seen: map[string]uint64{}}
	w, err := kv.Watch(context.WithoutCancel(ctx), prefix+">")
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", stream.Registry, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("loading bucket %s: %w", stream.Registry, ctx.Err()), w.Stop())
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("loading bucket %s: the watch ended", stream.Registry)
			}
			if e != nil {
				s.take(e)
				continue
			}
		}
		break
	}
	s.watch = w
	go func() {
		defer close(s.done)
		for e := range w.Updates() {
			if e != nil {
				s.take(e)
			}
		}
	}()
	return s, nil
}

// Close stops following the bucket.
func (s *Store) Close() {
	_ = s.watch.Stop() // fails only when the connection is gone, and then it has stopped
	<-s.done
}

// Get returns one registration.
func (s *Store) Get(svc subject.Service) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.entries[svc.String()]
	return e, ok
}

// After lists up to n registrations by name: those after a name that pick wants.
func (s *Store) After(after string, n int, pick func(Entry) bool) []Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, found := slices.BinarySearch(s.names, after)
	if found {
		i++
	}
	var out []Entry
	for ; i < len(s.names) && len(out) < n; i++ {
		if e := s.entries[s.names[i]]; pick(e) {
			out = append(out, e)
		}
	}
	return out
}

// Len is the number of registrations.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entries)
}

// Put writes a registration if its key is still at the expected revision; 0 creates. then is
// called once, in the order of the writes of this service, with the entry before it (zero
// when there was none) and the one stored. Errors are faults: CONFLICT when the key has moved on.
func (s *Store) Put(ctx context.Context, r *kernelv1.Registration, expected uint64, then func(before, now Entry)) (uint64, error) {
	svc, err := subject.ParseService(r.GetName())
	if err != nil {
		return 0, fault.Invalid("registration.name", "%v", err)
	}
	if n := len(r.GetRevisions()); n > maxRevisions {
		return 0, fault.Invalid("registration.revisions", "%d of them: at most %d are kept", n, maxRevisions)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return 0, fault.Internal(err, "the registration cannot be encoded")
	}
	if len(b) > maxBytes {
		return 0, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the registration of %s is %d bytes with its kept revisions, at most %d can be stored; shorten env or descriptions", svc, len(b), maxBytes)
	}
	l := s.lock(svc)
	defer l.Unlock()
	before, _ := s.Get(svc)
	if before.Revision != expected {
		return 0, conflict(svc, before)
	}
	rev, err := stream.RetryInFlight(ctx, func() (uint64, error) {
		if expected == 0 {
			return s.kv.Create(ctx, key(svc), b)
		}
		return s.kv.Update(ctx, key(svc), b, expected)
	})
	if err != nil {
		if rev, err = s.settle(ctx, svc, b, before, err); err != nil {
			return 0, err
		}
	}
	now := Entry{Service: svc, Registration: proto.CloneOf(r), Revision: rev}
	s.set(now)
	if then != nil {
		then(before, now)
	}
	return rev, nil
}

// Delete forgets a registration if its key is at the expected revision; 0 is any. A service
// that is not registered is deleted already.
func (s *Store) Delete(ctx context.Context, svc subject.Service, expected uint64, then func(before Entry)) error {
	l := s.lock(svc)
	defer l.Unlock()
	before, ok := s.Get(svc)
	if !ok {
		return nil
	}
	if expected != 0 && before.Revision != expected {
		return conflict(svc, before)
	}
	_, err := stream.RetryInFlight(ctx, func() (struct{}, error) {
		return struct{}{}, s.kv.Delete(ctx, key(svc), jetstream.LastRevision(before.Revision))
	})
	if err != nil {
		if _, err = s.settle(ctx, svc, nil, before, err); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.drop(svc.String())
	s.mu.Unlock()
	if then != nil {
		then(before)
	}
	return nil
}

// settle finds out what became of a write that failed: want is what it was to store, nil for a
// deletion. It returns the revision when the write has happened after all.
func (s *Store) settle(ctx context.Context, svc subject.Service, want []byte, before Entry, cause error) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	e, err := s.kv.Get(ctx, key(svc))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		if want == nil {
			return 0, nil
		}
		if before.Revision != 0 { // someone else deleted it
			s.mu.Lock()
			s.drop(svc.String())
			s.mu.Unlock()
			return 0, conflict(svc, Entry{})
		}
	case err != nil:
		return 0, unavailable(svc, errors.Join(cause, err))
	default:
		s.take(e)
		if e.Revision() > before.Revision {
			if want != nil && bytes.Equal(e.Value(), want) {
				return e.Revision(), nil
			}
			now, _ := s.Get(svc)
			return 0, conflict(svc, now)
		}
	}
	return 0, unavailable(svc, cause)
}

// take brings one entry of the bucket into memory, unless something newer is there.
func (s *Store) take(e jetstream.KeyValueEntry) {
	svc, ok := parseKey(e.Key())
	if !ok {
		s.log.Warn("the registry bucket holds a key that is no service", "key", e.Key())
		return
	}
	if op := e.Operation(); op == jetstream.KeyValueDelete || op == jetstream.KeyValuePurge {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.Revision() > s.seen[svc.String()] {
			s.drop(svc.String())
			delete(s.seen, svc.String()) // the bucket is watched in order: nothing older can follow
		}
		return
	}
	n := Entry{Service: svc, Registration: &kernelv1.Registration{}, Revision: e.Revision()}
	err := proto.Unmarshal(e.Value(), n.Registration)
	if err == nil && n.Registration.GetName() != svc.String() {
		err = fmt.Errorf("it names %q", n.Registration.GetName())
	}
	if err != nil {
		n.Registration, n.Err = nil, fmt.Errorf("the stored registration of %s is unreadable: %w", svc, err)
		s.log.Error("unreadable registration", "service", svc.String(), "error", err)
	}
	s.set(n)
}

func (s *Store) set(e Entry) {
	name := e.Service.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Revision <= s.seen[name] {
		return
	}
	s.seen[name] = e.Revision
	if _, known := s.entries[name]; !known {
		i, _ := slices.BinarySearch(s.names, name)
		s.names = slices.Insert(s.names, i, name)
	}
	s.entries[name] = e
}

// drop removes a name; s.mu is held.
func (s *Store) drop(name string) {
	if _, known := s.entries[name]; !known {
		return
	}
	delete(s.entries, name)
	i, _ := slices.BinarySearch(s.names, name)
	s.names = slices.Delete(s.names, i, i+1)
}

func (s *Store) lock(svc subject.Service) *sync.Mutex {
	l := &s.locks[maphash.String(s.seed, svc.String())%lockCount]
	l.Lock()
	return l
}

func conflict(svc subject.Service, now Entry) error {
	if now.Revision == 0 {
		return fault.New(codes.Aborted, fault.ReasonConflict, "%s is not registered any more", svc).With("kv_revision", "0")
	}
	return fault.New(codes.Aborted, fault.ReasonConflict, "%s has changed meanwhile and is at revision %d; read it again", svc, now.Revision).
		With("kv_revision", strconv.FormatUint(now.Revision, 10))
}

func unavailable(svc subject.Service, cause error) error {
	return fault.Unavailable(500*time.Millisecond, "the registration of %s cannot be written now", svc).Because(cause)
}

// key is svc.<ns>.<service>
func key(s subject.Service) string { return prefix + s.Namespace + "." + s.Name }

func parseKey(k string) (subject.Service, bool) {
	ns, name, ok := strings.Cut(strings.TrimPrefix(k, prefix), ".")
	s := subject.Service{Namespace: ns, Name: name}
	return s, ok && subject.ValidName(ns) && subject.ValidName(name)
}
