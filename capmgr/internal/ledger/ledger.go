// Package ledger is the single append path of the capability chain. Changes are decided and
// appended one after another, on the state that the last record left. Do answers when the
// change has happened everywhere; its steps, in this order and none before the one above:
//
//  1. decide, on the state after every earlier change;
//  2. the records are durable in stream CAPS, in their places (expected sequence);
//  3. the signed head names the last of them, and the fence has applied them: every gate has
//     acknowledged or was cut off, and the live connections of what died are closed;
//  4. Do answers.
//
// Decisions that wait at the same time go through together, except that one with which
// something dies ends its group. A step that fails is repeated until it succeeds, and nothing
// is decided or answered meanwhile: a durable record can no more be taken back than hidden.
// After a crash between 2 and 3, Open finds the records in the stream and Run brings the fence up to them
// before it decides anything.
//
// The ledger ends with an error, and the process with it, when the stream contains what it
// did not write.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/capmgr/internal/budget"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxWaiting bounds the changes that wait for their turn.
const maxWaiting = 1024

// Fence brings events to the node's fence and returns once they hold everywhere.
type Fence func(ctx context.Context, r *kernelv1.FenceApplyRequest) (*kernelv1.FenceApplyResponse, error)

// Options of a ledger.
type Options struct {
	JS jetstream.JetStream
	// ChainSeed signs records and head.
	ChainSeed string
	// HeadPath is the file of the signed head.
	HeadPath string
	// RootID is the capability that an empty stream begins with.
	RootID string
	// Lead is how far ahead of the boot clock time is, as the fence knows it; see gate.Table.
	Lead int64
	// FenceSequence is the last record the fence is known to have.
	FenceSequence uint64
	Fence         Fence
	Log           *slog.Logger
}

// Ledger is open for changes while Run runs.
type Ledger struct {
	o     Options
	key   nkeys.KeyPair
	state *State
	link  caps.Link
	// behind holds the records that the fence may not have: loaded at boot, or just made durable.
	behind []*kernelv1.CapEvent

	queue chan *request
	ended chan struct{} // closed when Run has returned
}

// Result is what a change did.
type Result struct {
	// Died lists the ids that died with it, the revoked one first.
	Died []string
	// ConnectionsCut counts the live connections that the fence closed.
	ConnectionsCut uint32
}

type request struct {
	ctx    context.Context
	decide func(*State) ([]*kernelv1.CapEvent, error)
	result Result
	err    error
	done   chan struct{}
}

// Open loads and verifies the chain. An error that wraps caps.ErrBroken means that the store
// was changed, cut or replaced. An empty store gets its root record when Run begins.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	key, err := nkeys.FromSeed([]byte(o.ChainSeed))
	if err != nil {
		return nil, fmt.Errorf("chain key: %w", err)
	}
	pub, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("chain key: %w", err)
	}
	l := &Ledger{o: o, key: key, state: newState(), queue: make(chan *request, maxWaiting), ended: make(chan struct{})}
	l.state.Table.Advance(o.Lead)
	head, found, err := caps.LoadHead(o.HeadPath, pub)
	if err != nil {
		return nil, err
	}
	l.link, err = caps.Load(ctx, o.JS, pub, head, func(ev *kernelv1.CapEvent) error {
		if ev.GetSequence() > o.FenceSequence {
			l.behind = append(l.behind, ev)
		}
		_, err := l.state.apply(ev)
		return err
	})
	if err != nil {
		return nil, err
	}
	// The head is written after the record: only the very first record can be without one.
	if !found && l.link.Sequence > 1 {
		return nil, fmt.Errorf("%w: the store has %d records, and the file %s that names the last of them is gone", caps.ErrBroken, l.link.Sequence, o.HeadPath)
	}
	if l.link.Sequence < o.FenceSequence {
		return nil, fmt.Errorf("%w: the store ends at record %d, the fence has %d", caps.ErrBroken, l.link.Sequence, o.FenceSequence)
	}
	if l.link.Sequence > 0 && o.RootID != "" {
		if v, ok := l.state.Table.Get(o.RootID); !ok || v.Record.GetParent() != "" {
			return nil, fmt.Errorf("the store's root capability is not %s: the operator's handle belongs to another store", o.RootID)
		}
	}
	return l, nil
}

// State may be read at any time through its Table; the rest only inside a decide function.
func (l *Ledger) State() *State { return l.state }

// ErrClosed is the cause of faults after Run has ended.
var ErrClosed = errors.New("the capability ledger is closed")

// Do makes one change: the events that decide returns, in their order; none changes nothing,
// but Do still answers after every earlier change has happened. It returns decide's error, or a fault when the ledger has
// ended or has too much to do. Once a change is decided, Do waits until it has happened,
// whatever becomes of ctx: its answer is always true.
func (l *Ledger) Do(ctx context.Context, decide func(*State) ([]*kernelv1.CapEvent, error)) (Result, error) {
	r := &request{ctx: ctx, decide: decide, done: make(chan struct{})}
	select {
	case <-l.ended:
		return Result{}, closed()
	case l.queue <- r:
	default:
		return Result{}, fault.Unavailable(100*time.Millisecond, "too many capability changes wait already")
	}
	select {
	case <-r.done:
		return r.result, r.err
	case <-l.ended:
	}
	select {
	case <-r.done: // answered just before the end
		return r.result, r.err
	default:
		return Result{}, closed()
	}
}

func closed() error {
	return fault.Unavailable(250*time.Millisecond, "the capability manager is stopping; what was asked may or may not have happened").Because(ErrClosed)
}

// Root is the record that every chain begins with.
func Root(id string, now time.Time) *kernelv1.CapEvent {
	return Granted(&kernelv1.CapRecord{
		Id: id, Label: "root", Depth: 16, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
		Rules: []string{"svc:*/*=*", "audit=*", "kernel=*", "egress:*:*=*"},
	}, now)
}

// Granted is the event of a new record.
func Granted(r *kernelv1.CapRecord, now time.Time) *kernelv1.CapEvent {
	r.GrantedAt = timestamppb.New(now)
	return &kernelv1.CapEvent{Time: r.GrantedAt, Change: &kernelv1.CapEvent_Granted{Granted: r}}
}

// Charged is the event of a service that takes something out of budgets from now on, or nothing
// where holder is empty.
func Charged(c budget.Charge, now time.Time) *kernelv1.CapEvent {
	return &kernelv1.CapEvent{Time: timestamppb.New(now), Change: &kernelv1.CapEvent_Charged{Charged: &kernelv1.CapCharged{
		Service: c.Service, Holder: c.Holder, MemoryBytes: c.MemoryBytes,
	}}}
}

// Revoked is the event of a record's end.
func Revoked(id, by string, now time.Time) *kernelv1.CapEvent {
	return &kernelv1.CapEvent{Time: timestamppb.New(now), Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: id, By: by}}}
}
