package runner

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/manifest"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// state is the keyed state of one service in this process: reads are served from memory, writes are
// answered by the keeper first. It is opened on first use, and opened again whenever it is not known
// whether keeper and memory agree.
//
// Locks: writing before mu.
type state struct {
	keeper  nodev1.KeeperClient
	service string

	writing sync.Mutex // held by one write or opening at a time; guards stream, cancel and lastID
	stream  nodev1.Keeper_WriteClient
	cancel  context.CancelFunc
	lastID  uint64

	mu     sync.RWMutex // guards what follows
	epoch  uint64
	policy *solov1.StatePolicy
	quota  uint64
	opened bool
	kept   map[string][]byte // what the keeper has
	bytes  uint64
	none   volatile
}

func newState(keeper nodev1.KeeperClient, service string) *state {
	return &state{keeper: keeper, service: service, none: newVolatile()}
}

// claim makes the state that of a placement; a placement of an older epoch is refused from then on.
func (s *state) claim(epoch uint64, m *solov1.Manifest) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.disconnect()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch, s.policy, s.quota, s.opened = epoch, m.GetState(), m.GetLimits().GetStateBytes(), false
	if s.quota == 0 {
		s.quota = manifest.DefaultState
	}
	s.quota = min(s.quota, manifest.MaxState)
	s.none.clear()
}

// forget drops what goes with an instance.
func (s *state) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.none.clear()
}

// size is the state known here in bytes.
func (s *state) size() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bytes
}

// mode is what the policy says of a key: first match wins.
func (s *state) mode(key string) solov1.StateMode {
	for _, k := range s.policy.GetKeys() {
		prefix, wild := strings.CutSuffix(k.GetMatch(), "*")
		if wild && strings.HasPrefix(key, prefix) || key == k.GetMatch() {
			return k.GetMode()
		}
	}
	return solov1.StateMode_STATE_MODE_HYBRID
}

// ask answers one state operation of an instance of an epoch.
func (s *state) ask(ctx context.Context, epoch uint64, op string, payload []byte) ([]byte, error) {
	f, err := abi.Decode(payload)
	if err != nil {
		return nil, fault.Invalid("payload", "%v", err)
	}
	if err := s.ready(ctx, epoch); err != nil {
		return nil, err
	}
	switch {
	case op == abi.OpStateGet && len(f) == 1:
		v, err := s.get(string(f[0]))
		return abi.Fields{v}.Encode(), err
	case op == abi.OpStateList && len(f) == 2:
		return abi.Strings(s.list(string(f[0]), string(f[1]))...).Encode(), nil
	case op == abi.OpStatePut && len(f) == 2 && f[1] != nil:
		return nil, s.change(ctx, epoch, abi.Fields{f[0], f[1]}, nil)
	case op == abi.OpStateDelete && len(f) == 1:
		was := false
		err := s.change(ctx, epoch, abi.Fields{f[0], nil}, func() bool { was = s.find(string(f[0])) != nil; return was })
		return yes(was), err
	case op == abi.OpStateCAS && len(f) == 3:
		swapped := false
		err := s.change(ctx, epoch, abi.Fields{f[0], f[2]}, func() bool {
			now := s.find(string(f[0]))
			swapped = (now == nil) == (f[1] == nil) && bytes.Equal(now, f[1])
			return swapped
		})
		return yes(swapped), err
	case op == abi.OpStateBatch && len(f)%2 == 0:
		return nil, s.change(ctx, epoch, f, nil)
	}
	return nil, fault.Invalid("payload", "%s does not take these %d fields", op, len(f))
}

func yes(b bool) []byte {
	if b {
		return abi.Strings(abi.True).Encode()
	}
	return abi.Strings(abi.False).Encode()
}

func (s *state) get(key string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mode(key) == solov1.StateMode_STATE_MODE_EXTERNAL {
		return nil, external(key)
	}
	return s.find(key), nil
}

// find returns a key's value, nil when it is absent. s.mu is held.
func (s *state) find(key string) []byte {
	if v, ok := s.kept[key]; ok {
		return v
	}
	return s.none.m[key]
}

func external(key string) error {
	return fault.New(codes.FailedPrecondition, fault.ReasonInvalidArgument, "key %q has mode external: the service keeps it itself", key)
}

func (s *state) list(prefix, after string) []string {
	s.mu.RLock()
	var keys []string
	for _, m := range []map[string][]byte{s.kept, s.none.m} {
		for k := range m {
			if strings.HasPrefix(k, prefix) && k > after {
				keys = append(keys, k)
			}
		}
	}
	s.mu.RUnlock()
	slices.Sort(keys)
	return keys[:min(len(keys), abi.ListPage)]
}

// ready opens the state if it is not.
func (s *state) ready(ctx context.Context, epoch uint64) error {
	s.mu.RLock()
	err, opened := s.fence(epoch), s.opened
	s.mu.RUnlock()
	if err != nil || opened {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.open(ctx)
}

func (s *state) fence(epoch uint64) error {
	if epoch < s.epoch {
		return fault.New(codes.FailedPrecondition, fault.ReasonEpochFenced, "this instance belongs to epoch %d; epoch %d has taken over", epoch, s.epoch)
	}
	return nil
}

// open reads everything from the keeper and begins a stream of writes. s.writing is held.
func (s *state) open(ctx context.Context) error {
	s.mu.RLock()
	opened, req := s.opened, &nodev1.OpenRequest{Service: s.service, Epoch: s.epoch, Policy: s.policy, QuotaBytes: s.quota}
	s.mu.RUnlock()
	if opened {
		return nil
	}
	s.disconnect()
	in, err := s.keeper.Open(ctx, req)
	if err != nil {
		return keeperFault(ctx, err)
	}
	all, size := map[string][]byte{}, uint64(0)
	for {
		page, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return keeperFault(ctx, err)
		}
		for _, e := range page.GetEntries() {
			all[e.GetKey()] = present(e.GetValue())
			size += uint64(len(e.GetKey()) + len(e.GetValue()))
		}
	}
	run, cancel := context.WithCancel(context.Background())
	if s.stream, err = s.keeper.Write(run); err != nil {
		cancel()
		return keeperFault(ctx, err)
	}
	s.cancel = cancel
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept, s.bytes, s.opened = all, size, true
	return nil
}

func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

// disconnect ends the stream of writes. s.writing is held.
func (s *state) disconnect() {
	if s.cancel != nil {
		s.cancel()
		s.cancel, s.stream = nil, nil
	}
}

// change applies key and value pairs, a nil value deleting, if the condition holds when its turn has
// come. The condition is evaluated with s.mu held for reading.
func (s *state) change(ctx context.Context, epoch uint64, pairs abi.Fields, cond func() bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	for attempt := 0; ; attempt++ {
		if err := s.open(ctx); err != nil {
			return err
		}
		s.mu.RLock()
		err := s.fence(epoch)
		// A repeated batch may have been applied the first time; its condition held then.
		apply := attempt > 0 || cond == nil || cond()
		s.mu.RUnlock()
		if err != nil || !apply {
			return err
		}
		kept, none, err := s.sort(pairs)
		if err == nil {
			err = s.room(none)
		}
		if err != nil {
			return err
		}
		resp, err := s.send(ctx, epoch, kept)
		if err == nil {
			if resp.GetCode() != 0 {
				f := fault.New(codes.Code(resp.GetCode()), resp.GetReason(), "%s", resp.GetMessage())
				if f.Reason == fault.ReasonStateQuota {
					f.Final()
				}
				return f
			}
			s.apply(kept, none)
			return nil
		}
		s.mu.Lock()
		s.opened = false
		s.mu.Unlock()
		if ctx.Err() != nil {
			return keeperFault(ctx, err)
		}
		pause(ctx, min(time.Duration(attempt+1)*10*time.Millisecond, 200*time.Millisecond))
	}
}

// sort splits pairs by where their keys are kept and checks them.
func (s *state) sort(pairs abi.Fields) (kept []*nodev1.StateOp, none abi.Fields, err error) {
	for i := 0; i < len(pairs); i += 2 {
		key, v := string(pairs[i]), pairs[i+1]
		if len(key) == 0 || len(key) > abi.MaxKey {
			return nil, nil, fault.Invalid("key", "%d bytes; want 1 to %d", len(key), abi.MaxKey)
		}
		switch mode := s.mode(key); mode {
		case solov1.StateMode_STATE_MODE_EXTERNAL:
			return nil, nil, external(key)
		case solov1.StateMode_STATE_MODE_NONE:
			none = append(none, pairs[i], v)
		default:
			kept = append(kept, &nodev1.StateOp{Key: key, Value: v, Mode: mode})
		}
	}
	return kept, none, nil
}

// room refuses keys of mode none beyond the quota. What is kept counts with them; the keeper bounds it.
func (s *state) room(none abi.Fields) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if after := s.none.after(none); after > s.none.bytes && s.bytes+after > s.quota {
		return fault.New(codes.ResourceExhausted, fault.ReasonStateQuota,
			"the state of %s would have %d bytes, %d of them of mode none; its quota is %d", s.service, s.bytes+after, after, s.quota).Final().
			Next("delete keys, or raise limits.state_bytes in the manifest")
	}
	return nil
}

// send has the keeper write and waits for its answer; an error leaves open whether it did.
func (s *state) send(ctx context.Context, epoch uint64, ops []*nodev1.StateOp) (*nodev1.WriteResponse, error) {
	if len(ops) == 0 {
		return &nodev1.WriteResponse{}, nil
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	s.lastID++
	if err := s.stream.Send(&nodev1.WriteRequest{Id: s.lastID, Service: s.service, Epoch: epoch, Ops: ops}); err != nil {
		return nil, err
	}
	for {
		r, err := s.stream.Recv()
		if err != nil || r.GetId() == s.lastID {
			return r, err
		}
	}
}

func (s *state) apply(kept []*nodev1.StateOp, none abi.Fields) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range kept {
		if old, ok := s.kept[op.GetKey()]; ok {
			s.bytes -= uint64(len(op.GetKey()) + len(old))
			delete(s.kept, op.GetKey())
		}
		if op.Value != nil {
			s.kept[op.GetKey()] = bytes.Clone(op.GetValue()) // a small value must not hold on to its call
			s.bytes += uint64(len(op.GetKey()) + len(op.GetValue()))
		}
	}
	s.none.apply(none)
}

// close ends the use of the state, and with flush has the keeper bring it to the bucket.
func (s *state) close(ctx context.Context, flush bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.disconnect()
	s.mu.Lock()
	opened := s.opened
	s.opened, s.kept, s.bytes = false, nil, 0
	s.mu.Unlock()
	if !flush || !opened {
		return nil
	}
	_, err := s.keeper.Flush(ctx, &nodev1.FlushRequest{Service: s.service})
	return err
}

// keeperFault passes on what the keeper says, and turns its absence into something to be retried.
func keeperFault(ctx context.Context, err error) error {
	f := fault.From(err)
	if ctx.Err() != nil && f.Reason != fault.ReasonEpochFenced {
		return fault.New(codes.DeadlineExceeded, fault.ReasonStateUnavailable, "the state keeper did not answer in time").Because(err)
	}
	if f.Code == codes.Unavailable && f.Reason != fault.ReasonStateUnavailable || f.Code == codes.Internal {
		return fault.New(codes.Unavailable, fault.ReasonStateUnavailable, "the state keeper does not answer at the moment").Retry(200 * time.Millisecond).Because(err)
	}
	return f
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
