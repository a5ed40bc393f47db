package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

const (
	// maxGroup and maxGroupBytes bound what goes through together.
	maxGroup      = 64
	maxGroupBytes = 512 << 10
	// tryTimeout bounds one try of one step; the fence may wait for a gate's lease to run out.
	tryTimeout = 5 * time.Second
)

// sealed is a record in its place, not yet durable.
type sealed struct {
	event *kernelv1.CapEvent
	bytes []byte
}

// Run makes changes until ctx ends, finishes the group at hand and returns nil. Any other
// end is an error after which this process must not go on.
func (l *Ledger) Run(ctx context.Context) error {
	defer close(l.ended)
	if err := l.begin(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-l.queue:
			if err := l.group(ctx, first); err != nil {
				return err
			}
		}
	}
}

// begin brings the fence up to the chain, and the chain to its first record.
func (l *Ledger) begin(ctx context.Context) error {
	if l.link.Sequence == 0 {
		s, _, err := l.seal(Root(l.o.RootID, time.Now()))
		if err != nil {
			return err
		}
		if err := l.store(ctx, []sealed{s}); err != nil {
			return err
		}
	}
	_, err := l.spread(ctx)
	return err
}

// Ready waits until the fence has everything that the chain had at boot, or Run has ended.
func (l *Ledger) Ready(ctx context.Context) error {
	_, err := l.Do(ctx, func(*State) ([]*kernelv1.CapEvent, error) { return nil, nil })
	return err
}

// group decides first and what else waits, and carries all of it through.
func (l *Ledger) group(ctx context.Context, first *request) error {
	var (
		group []*request
		recs  []sealed
		size  int
	)
	for r := first; r != nil; r = l.next(r, len(group), size) {
		group = append(group, r)
		if r.err = r.ctx.Err(); r.err != nil {
			r.err = fault.New(codeOf(r.err), fault.ReasonDeadlineExceeded, "the request waited until its deadline; nothing was done").Because(r.err)
			continue
		}
		var events []*kernelv1.CapEvent
		if events, r.err = r.decide(l.state); r.err != nil {
			continue
		}
		for _, ev := range events {
			s, died, err := l.seal(ev)
			if err != nil {
				return err // the decision was made on a state that does not allow it: a defect
			}
			recs = append(recs, s)
			size += len(s.bytes)
			r.result.Died = append(r.result.Died, died...)
		}
	}
	if len(recs) > 0 {
		// What has begun is finished, though not for ever, when the process is told to end.
		ctx, cancel := graceful(ctx)
		defer cancel()
		if err := l.store(ctx, recs); err != nil {
			return err
		}
		cut, err := l.spread(ctx)
		if err != nil {
			return err
		}
		group[len(group)-1].result.ConnectionsCut = cut
	}
	for _, r := range group {
		close(r.done)
	}
	return nil
}

// next takes another request into a group of n with size bytes whose last one is r. What dies
// ends a group, so that the connections cut are that request's alone.
func (l *Ledger) next(r *request, n, size int) *request {
	if len(r.result.Died) > 0 || n >= maxGroup || size >= maxGroupBytes {
		return nil
	}
	select {
	case r := <-l.queue:
		return r
	default:
		return nil
	}
}

// seal gives an event its place in the chain and applies it to the state.
func (l *Ledger) seal(ev *kernelv1.CapEvent) (sealed, []string, error) {
	b, link, err := l.link.Seal(l.key, ev)
	if err != nil {
		return sealed{}, nil, fmt.Errorf("sealing capability record %d: %w", l.link.Sequence+1, err)
	}
	died, err := l.state.apply(ev)
	if err != nil {
		return sealed{}, nil, fmt.Errorf("capability record %d: %w", ev.GetSequence(), err)
	}
	l.link = link
	return sealed{ev, b}, died, nil
}

// spread writes the head and brings the fence up to the chain, side by side: both follow
// from what is durable, and neither from the other.
func (l *Ledger) spread(ctx context.Context) (cut uint32, err error) {
	head := make(chan error, 1)
	go func() {
		head <- l.persist(ctx, "the head of the capability chain cannot be written", func(context.Context) error {
			return caps.SaveHead(l.o.HeadPath, l.key, l.link)
		})
	}()
	cut, err = l.fence(ctx)
	return cut, errors.Join(err, <-head)
}

// store makes records durable, in order.
func (l *Ledger) store(ctx context.Context, recs []sealed) error {
	acks := make([]jetstream.PubAckFuture, len(recs))
	for i, s := range recs {
		a, err := l.o.JS.PublishMsgAsync(message(s), expect(s)...)
		if err != nil {
			break // the rest goes one by one below
		}
		acks[i] = a
	}
	for i, s := range recs {
		if err := l.settle(ctx, acks[i], s); err != nil {
			return err
		}
		l.behind = append(l.behind, s.event)
	}
	return nil
}

func message(s sealed) *nats.Msg { return &nats.Msg{Subject: subject.Caps, Data: s.bytes} }

func expect(s sealed) []jetstream.PublishOpt {
	return []jetstream.PublishOpt{
		jetstream.WithExpectStream(stream.Caps), jetstream.WithExpectLastSequence(s.event.GetSequence() - 1),
	}
}

// settle waits for a record's acknowledgement and, where it fails or stays out, publishes it
// again until it is known to stand in its place.
func (l *Ledger) settle(ctx context.Context, ack jetstream.PubAckFuture, s sealed) error {
	if ack != nil {
		select {
		case a := <-ack.Ok():
			if a.Sequence == s.event.GetSequence() {
				return nil
			}
		case <-ack.Err():
		case <-time.After(tryTimeout):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return l.persist(ctx, "a capability record cannot be stored", func(ctx context.Context) error {
		_, err := stream.RetryInFlight(ctx, func() (*jetstream.PubAck, error) {
			return l.o.JS.PublishMsg(ctx, message(s), expect(s)...)
		})
		if err == nil || !stream.Lost(err) {
			return err
		}
		// Its place is taken, or the one before is still empty.
		st, err := l.o.JS.Stream(ctx, stream.Caps)
		if err != nil {
			return err
		}
		m, err := st.GetMsg(ctx, s.event.GetSequence())
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return fatal{fmt.Errorf("%w: record %d cannot be stored, because the store ends at %d", caps.ErrBroken, s.event.GetSequence(), st.CachedInfo().State.LastSeq)}
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(m.Data, s.bytes) {
			return fatal{fmt.Errorf("%w at record %d: someone else has written it", caps.ErrBroken, s.event.GetSequence())}
		}
		return nil
	})
}

// fence brings the fence up to the chain and returns how many connections it cut.
func (l *Ledger) fence(ctx context.Context) (uint32, error) {
	var cut uint32
	for len(l.behind) > 0 {
		page := l.behind[:page(l.behind)]
		err := l.persist(ctx, "the fence does not take capability records", func(ctx context.Context) error {
			r, err := l.o.Fence(ctx, &kernelv1.FenceApplyRequest{Events: page})
			switch {
			case err == nil:
				cut += r.GetConnectionsCut()
			case fault.Is(err, fault.ReasonDataLoss), fault.Is(err, fault.ReasonConflict):
				// It has another chain, or lacks records from before: only the next start can mend that.
				return fatal{fmt.Errorf("the fence refuses capability records from %d on: %w", page[0].GetSequence(), err)}
			}
			return err
		})
		if err != nil {
			return cut, err
		}
		l.behind = l.behind[len(page):]
	}
	l.behind = nil
	return cut, nil
}

// page counts the events that fit in one message, at least one.
func page(events []*kernelv1.CapEvent) int {
	size := 0
	for i, ev := range events {
		if size += proto.Size(ev) + 8; size > maxGroupBytes && i > 0 {
			return i
		}
	}
	return len(events)
}

// fatal is an error that trying again cannot mend.
type fatal struct{ error }

// persist repeats a step until it succeeds, is fatal, or ctx ends.
func (l *Ledger) persist(ctx context.Context, what string, step func(context.Context) error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		err := step(try)
		cancel()
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[fatal](err); ok {
			return f.error
		}
		l.o.Log.Error(what, "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(wait):
		}
	}
}
