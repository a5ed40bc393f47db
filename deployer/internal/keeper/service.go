package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/deployer/internal/keeper/journal"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// Kinds of journal records, the first byte of each.
const (
	recWrite   = 'W' // a WriteRequest: its ops were applied under its epoch
	recEpoch   = 'E' // 8 bytes: the epoch that opened the state
	recFlushed = 'F' // every change before, but those of keys changed since, is in the bucket
)

// compactAt is the journal size in bytes below which it is never rewritten.
const compactAt = 1 << 20

// service is the state of one service.
type service struct {
	id       subject.Service
	dropped  chan struct{} // closed when the state is gone
	followed bool          // guarded by Keeper.mu

	flushing sync.Mutex // held while the bucket is written; before mu

	mu      sync.Mutex // guards what follows
	journal *journal.Journal
	epoch   uint64
	quota   uint64
	every   time.Duration
	through bool
	keys    map[string][]byte
	bytes   uint64
	base    int64               // journal size after it was last rewritten
	dirty   map[string]struct{} // changed since the bucket had them; absent ones were deleted
}

// open opens or makes a journal; from is what the bucket has, for one that is made.
func (k *Keeper) open(id subject.Service, from map[string][]byte) (*service, error) {
	s := &service{
		id: id, dropped: make(chan struct{}), quota: DefaultQuota, every: DefaultFlush,
		keys: map[string][]byte{}, dirty: map[string]struct{}{},
	}
	j, rec, err := journal.Open(filepath.Join(k.o.Dir, id.Namespace+"."+id.Name+suffix), s.replay)
	if err != nil {
		return nil, err
	}
	s.journal = j
	if rec.TornBytes > 0 {
		k.o.Trouble(id.String(), fmt.Sprintf("the journal ended in %d bytes of an unfinished or damaged record, which were cut off and kept beside it", rec.TornBytes))
	}
	if rec.Records == 0 && len(from) > 0 {
		for key, v := range from {
			s.set(key, v)
		}
		if err := s.rewrite(); err != nil {
			return nil, errors.Join(err, j.Close())
		}
	}
	return s, nil
}

// replay applies one record of the journal.
func (s *service) replay(r []byte) error {
	if len(r) == 0 {
		return errors.New("an empty record")
	}
	switch r[0] {
	case recWrite:
		w := &nodev1.WriteRequest{}
		if err := proto.Unmarshal(r[1:], w); err != nil {
			return err
		}
		s.epoch = max(s.epoch, w.GetEpoch())
		s.apply(w.GetOps())
	case recEpoch:
		if len(r) != 9 {
			return errors.New("a record of an epoch has another length")
		}
		s.epoch = max(s.epoch, binary.BigEndian.Uint64(r[1:]))
	case recFlushed:
		clear(s.dirty)
	default:
		return fmt.Errorf("a record of kind %q, unknown to this version", r[0])
	}
	return nil
}

func (s *service) apply(ops []*nodev1.StateOp) {
	for _, op := range ops {
		s.dirty[op.GetKey()] = struct{}{}
		if op.Value == nil {
			s.unset(op.GetKey())
			continue
		}
		s.set(op.GetKey(), op.GetValue())
	}
}

func (s *service) set(key string, value []byte) {
	s.unset(key)
	s.keys[key] = append([]byte{}, value...)
	s.bytes += size(key, value)
}

func (s *service) unset(key string) {
	if old, ok := s.keys[key]; ok {
		s.bytes -= size(key, old)
		delete(s.keys, key)
	}
}

func size(key string, value []byte) uint64 { return uint64(len(key) + len(value)) }

// claim takes the state for an epoch and returns a copy of it.
func (s *service) claim(epoch uint64, policy *solov1.StatePolicy, quota uint64) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fence(epoch); err != nil {
		return nil, err
	}
	if epoch > s.epoch {
		if err := s.journal.Append(epochRecord(epoch), true); err != nil {
			return nil, diskFault(s.id.String(), err)
		}
		s.epoch = epoch
	}
	s.quota, s.every, s.through = DefaultQuota, DefaultFlush, policy.GetFlushThrough()
	if quota > 0 {
		s.quota = quota
	}
	if d := policy.GetFlushInterval().AsDuration(); d > 0 {
		s.every = max(d, 10*time.Millisecond)
	}
	return maps.Clone(s.keys), nil
}

func epochRecord(epoch uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{recEpoch}, epoch)
}

func (s *service) fence(epoch uint64) error {
	if epoch < s.epoch {
		return fault.New(codes.FailedPrecondition, fault.ReasonEpochFenced,
			"epoch %d of %s has been taken over by epoch %d", epoch, s.id, s.epoch)
	}
	return nil
}

// write applies a batch; through tells whether it must reach the bucket before it is answered.
func (s *service) write(epoch uint64, ops []*nodev1.StateOp) (through bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fence(epoch); err != nil {
		return false, err
	}
	if epoch > s.epoch {
		return false, fault.New(codes.FailedPrecondition, fault.ReasonStateUnavailable, "epoch %d of %s was not opened", epoch, s.id)
	}
	durable, err := s.admit(ops)
	if err != nil {
		return false, err
	}
	record, err := proto.MarshalOptions{}.MarshalAppend([]byte{recWrite}, &nodev1.WriteRequest{Epoch: epoch, Ops: ops})
	if err != nil {
		return false, err
	}
	if err := s.journal.Append(record, durable); err != nil {
		return false, err
	}
	s.apply(ops)
	if s.journal.Size() > max(compactAt, 3*s.base) {
		if err := s.rewrite(); err != nil {
			return s.through, nil // the journal still has everything; the next write tries again
		}
	}
	return s.through, nil
}

// admit checks a batch against bounds and quota.
func (s *service) admit(ops []*nodev1.StateOp) (durable bool, err error) {
	after := int64(s.bytes)
	seen := make(map[string]int64, len(ops))
	for i, op := range ops {
		key := op.GetKey()
		switch {
		case key == "" || len(key) > abi.MaxKey:
			return false, fault.Invalid(fmt.Sprintf("ops[%d].key", i), "%d bytes; want 1 to %d", len(key), abi.MaxKey)
		case len(op.GetValue()) > abi.MaxPayload:
			return false, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the value of key %q has %d bytes; the bound is %d", key, len(op.GetValue()), abi.MaxPayload)
		}
		switch op.GetMode() {
		case solov1.StateMode_STATE_MODE_DURABLE:
			durable = true
		case solov1.StateMode_STATE_MODE_NONE, solov1.StateMode_STATE_MODE_EXTERNAL:
			return false, fault.Invalid(fmt.Sprintf("ops[%d].mode", i), "keys of mode %s are not kept here", op.GetMode())
		}
		before, again := seen[key]
		if old, ok := s.keys[key]; ok && !again {
			before = int64(size(key, old))
		}
		now := int64(0)
		if op.Value != nil {
			now = int64(size(key, op.GetValue()))
		}
		after += now - before
		seen[key] = now
	}
	if after > int64(s.quota) && after > int64(s.bytes) {
		return false, fault.New(codes.ResourceExhausted, fault.ReasonStateQuota,
			"the state of %s would have %d bytes; its quota is %d", s.id, after, s.quota).Final().
			Next("delete keys, or raise limits.state in the manifest")
	}
	return durable, nil
}

// rewrite drops history from the journal: clean keys, a mark, then what the bucket lacks.
func (s *service) rewrite() error {
	err := s.journal.Rewrite(func(add func([]byte) error) error {
		if err := add(epochRecord(s.epoch)); err != nil {
			return err
		}
		w := func(dirty bool) error {
			for key, v := range s.keys {
				if _, is := s.dirty[key]; is != dirty {
					continue
				}
				if err := addWrite(add, s.epoch, &nodev1.StateOp{Key: key, Value: v}); err != nil {
					return err
				}
			}
			return nil
		}
		if err := w(false); err != nil {
			return err
		}
		if err := add([]byte{recFlushed}); err != nil {
			return err
		}
		for key := range s.dirty {
			if _, there := s.keys[key]; !there {
				if err := addWrite(add, s.epoch, &nodev1.StateOp{Key: key}); err != nil {
					return err
				}
			}
		}
		return w(true)
	})
	if err == nil {
		s.base = s.journal.Size()
	}
	return err
}

func addWrite(add func([]byte) error, epoch uint64, op *nodev1.StateOp) error {
	r, err := proto.MarshalOptions{}.MarshalAppend([]byte{recWrite}, &nodev1.WriteRequest{Epoch: epoch, Ops: []*nodev1.StateOp{op}})
	if err != nil {
		return err
	}
	return add(r)
}

// interval is the time between flushes.
func (s *service) interval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.every
}

// parallel bounds bucket writes under way for one service; each key goes once, so their order is free.
const parallel = 16

// flush brings what was changed when it began to the bucket.
func (s *service) flush(ctx context.Context, b Bucket) (uint64, error) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	names := slices.Collect(maps.Keys(s.dirty))
	s.mu.Unlock()
	if len(names) == 0 {
		return 0, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, key := range names {
		g.Go(func() error { return s.flushKey(ctx, b, key) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return uint64(len(names)), s.mark()
}

// flushKey sends one key and forgets that it was changed, unless it has been again.
func (s *service) flushKey(ctx context.Context, b Bucket, key string) error {
	s.mu.Lock()
	v, there := s.keys[key]
	s.mu.Unlock()
	var err error
	if there {
		err = b.Put(ctx, s.id, key, v)
	} else {
		err = b.Delete(ctx, s.id, key)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Values are replaced, never changed, so the same slice means the same write.
	if now, is := s.keys[key]; is == there && (!there || same(now, v)) {
		delete(s.dirty, key)
	}
	return nil
}

func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// mark notes in the journal that the bucket has everything, if it has.
func (s *service) mark() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirty) > 0 {
		return nil
	}
	return s.journal.Append([]byte{recFlushed}, false)
}

// clear deletes every key, in the journal too.
func (s *service) clear(epoch uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fence(epoch); err != nil {
		return err
	}
	s.epoch = epoch
	for key := range s.keys {
		s.dirty[key] = struct{}{}
	}
	clear(s.keys)
	s.bytes = 0
	if err := s.rewrite(); err != nil {
		return diskFault(s.id.String(), err)
	}
	return nil
}

// remove deletes the journal. Whoever still holds the service is refused.
func (s *service) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.dropped)
	return s.journal.Remove()
}

func (s *service) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.Close()
}
