// Package keeper holds the keyed state of a node's services, outside the processes that run guests.
//
// It promises: a write that was answered is in the service's journal whatever process dies, and on
// disk when its mode is durable; a batch is kept whole or not at all; writes of one stream are applied
// in order; writes of an epoch older than the newest that opened the service are refused for good; a
// full or failing disk is an error to the writer and never hides what is already kept. Behind, at
// latest each flush interval and on demand, changed keys go to the bucket, from which a node without
// a journal starts. The bucket's key is <namespace>.<service>.<base32hex of the key>.
//
// Locks: Keeper.mu before service.mu; service.flushing before service.mu. Nothing else is called with
// service.mu held but the journal.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// DefaultQuota is the state of a service in bytes where its manifest says nothing.
const DefaultQuota = 64 << 20

// DefaultFlush is the flush interval where the manifest says nothing.
const DefaultFlush = 5 * time.Second

// suffix of journal files; the rest of the name is <namespace>.<service>.
const suffix = ".journal"

// Bucket is the store behind, shared by nodes.
type Bucket interface {
	// Load returns all keys of a service. It fails while the bucket cannot be reached.
	Load(ctx context.Context, s subject.Service) (map[string][]byte, error)
	// Put sets a key, Delete removes one; both return once the bucket has it.
	Put(ctx context.Context, s subject.Service, key string, value []byte) error
	Delete(ctx context.Context, s subject.Service, key string) error
}

// Options of a Keeper.
type Options struct {
	// Dir holds the journals.
	Dir string
	// Bucket may be nil: then state stays in the journals.
	Bucket Bucket
	Log    *slog.Logger
	// Trouble hears of damage found and of failing disks and flushes, for the service's events.
	Trouble func(service, message string)
}

// Keeper holds the state of all services of a node. It is safe for concurrent use.
type Keeper struct {
	o       Options
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	flusher sync.WaitGroup

	mu       sync.Mutex // guards services and closing
	services map[string]*service
	closing  bool
}

// New opens every journal in the directory.
func New(o Options) (*Keeper, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if o.Trouble == nil {
		o.Trouble = func(string, string) {}
	}
	k := &Keeper{o: o, services: map[string]*service{}}
	k.ctx, k.stop = context.WithCancel(context.Background())
	files, err := filepath.Glob(filepath.Join(o.Dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		ns, name, ok := strings.Cut(strings.TrimSuffix(filepath.Base(f), suffix), ".")
		id := subject.Service{Namespace: ns, Name: name}
		if _, err := subject.ParseService(id.String()); !ok || err != nil {
			continue
		}
		s, err := k.open(id, nil)
		if err != nil {
			k.Close()
			return nil, err
		}
		k.services[id.String()] = s
	}
	return k, nil
}

// Open claims a service's state for an epoch and returns all of it. Older epochs are refused from
// then on; the same epoch may open again.
func (k *Keeper) Open(ctx context.Context, name string, epoch uint64, policy *solov1.StatePolicy, quota uint64) (map[string][]byte, error) {
	s, err := k.service(ctx, name)
	if err != nil {
		return nil, err
	}
	all, err := s.claim(epoch, policy, quota)
	if err != nil {
		return nil, err
	}
	k.follow(s)
	return all, nil
}

// service finds a service, or starts it from the bucket.
func (k *Keeper) service(ctx context.Context, name string) (*service, error) {
	id, err := subject.ParseService(name)
	if err != nil {
		return nil, fault.Invalid("service", "%v", err)
	}
	if s := k.find(name); s != nil {
		return s, nil
	}
	var from map[string][]byte
	if k.o.Bucket != nil {
		if from, err = k.o.Bucket.Load(ctx, id); err != nil {
			return nil, fault.New(codes.Unavailable, fault.ReasonStateUnavailable,
				"the state of %s is not on this node and the bucket cannot be read", name).Retry(time.Second).Because(err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.services[name]; s != nil {
		return s, nil
	}
	if k.closing {
		return nil, closed()
	}
	s, err := k.open(id, from)
	if err != nil {
		return nil, diskFault(name, err)
	}
	k.services[name] = s
	return s, nil
}

func (k *Keeper) find(name string) *service {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.services[name]
}

// follow runs the service's flusher, once.
func (k *Keeper) follow(s *service) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.o.Bucket == nil || k.closing || s.followed {
		return
	}
	s.followed = true
	k.flusher.Go(func() { k.flushLoop(s) })
}

// flushLoop flushes until the service is dropped or the keeper closes.
func (k *Keeper) flushLoop(s *service) {
	failing := false
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-s.dropped:
			return
		case <-time.After(s.interval()):
		}
		ctx, cancel := context.WithTimeout(k.ctx, time.Minute)
		_, err := s.flush(ctx, k.o.Bucket)
		cancel()
		if err != nil && !failing && k.ctx.Err() == nil {
			k.o.Trouble(s.id.String(), fmt.Sprintf("state is not reaching the bucket; it is kept on this node meanwhile: %v", err))
		}
		failing = err != nil
	}
}

// Write keeps a batch. It returns once the batch is as safe as its modes ask.
func (k *Keeper) Write(ctx context.Context, name string, epoch uint64, ops []*nodev1.StateOp) error {
	s := k.find(name)
	if s == nil {
		return fault.New(codes.FailedPrecondition, fault.ReasonStateUnavailable, "the state of %s was not opened", name)
	}
	through, err := s.write(epoch, ops)
	if err != nil {
		if f := fault.From(err); f.Code != codes.Internal {
			return f
		}
		k.o.Trouble(name, fmt.Sprintf("state cannot be written: %v", err))
		return diskFault(name, err)
	}
	if through && k.o.Bucket != nil {
		if _, err := s.flush(ctx, k.o.Bucket); err != nil {
			return fault.New(codes.Unavailable, fault.ReasonStateUnavailable,
				"the write is kept on this node but has not reached the bucket").Retry(time.Second).Because(err)
		}
	}
	return nil
}

// Flush brings the changed keys of a service, or of all when the name is empty, to the bucket and
// returns how many went.
func (k *Keeper) Flush(ctx context.Context, name string) (uint64, error) {
	if k.o.Bucket == nil {
		return 0, nil
	}
	var list []*service
	k.mu.Lock()
	for n, s := range k.services {
		if name == "" || n == name {
			list = append(list, s)
		}
	}
	k.mu.Unlock()
	var keys uint64
	var errs []error
	for _, s := range list {
		n, err := s.flush(ctx, k.o.Bucket)
		keys += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.id, err))
		}
	}
	if len(errs) > 0 {
		return keys, fault.New(codes.Unavailable, fault.ReasonStateUnavailable, "not all state reached the bucket").
			Retry(time.Second).Because(errors.Join(errs...))
	}
	return keys, nil
}

// Drop deletes a service's state, here and in the bucket.
func (k *Keeper) Drop(ctx context.Context, name string, epoch uint64) error {
	s, err := k.service(ctx, name)
	if err != nil {
		return err
	}
	if err := s.clear(epoch); err != nil {
		return err
	}
	if k.o.Bucket != nil {
		if _, err := s.flush(ctx, k.o.Bucket); err != nil {
			return fault.New(codes.Unavailable, fault.ReasonStateUnavailable,
				"the state of %s is gone from this node but not from the bucket yet", name).Retry(time.Second).Because(err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.services[name] != s {
		return nil
	}
	delete(k.services, name)
	return s.remove()
}

// Bytes is the state of a service in bytes, keys and values together.
func (k *Keeper) Bytes(name string) uint64 {
	s := k.find(name)
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Close stops flushing and closes the journals. Flush before it.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closing = true
	k.mu.Unlock()
	k.stop()
	k.flusher.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.services {
		if err := s.close(); err != nil {
			k.o.Log.Warn("closing a journal", "service", s.id.String(), "error", err)
		}
	}
}

func closed() error { return fault.Unavailable(time.Second, "the state keeper is ending") }

// diskFault is what a writer is told when its journal cannot be written.
func diskFault(name string, err error) *fault.Error {
	return fault.New(codes.Unavailable, fault.ReasonStateUnavailable,
		"the state of %s cannot be written now: %s", name, plain(err)).Retry(time.Second).Because(err).
		Next("check the free space of the disk that holds Solo's home; reading goes on")
}

// plain drops file names from an error, which are nobody's business outside.
func plain(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return "the journal failed"
}
