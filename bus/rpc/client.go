package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Peer is someone who makes system calls: a connection and the id it authenticated with.
type Peer struct {
	Conn *nats.Conn
	ID   string
}

// Call asks one component and waits for the answer, at most until ctx ends, or DefaultTimeout
// where ctx has no deadline. Errors are faults; UNAVAILABLE with a retry time when nobody
// serves the component at the moment.
func (p Peer) Call(ctx context.Context, component, op string, s subject.Service, req, resp proto.Message) error {
	if s == (subject.Service{}) {
		s = subject.Nothing()
	}
	m := nats.NewMsg(subject.Sys(component, op, s, p.ID))
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req) // equal requests have equal digests
	if err != nil {
		return fault.Internal(err, "the request cannot be encoded")
	}
	m.Data = b
	ctx, cancel := WithTimeout(ctx, m)
	defer cancel()
	r, err := p.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return TransportError(err, component)
	}
	if err := ReplyError(r); err != nil {
		return err
	}
	if err := proto.Unmarshal(r.Data, resp); err != nil {
		return fault.Internal(err, "%s answered something unreadable", component)
	}
	return nil
}

// WithTimeout gives ctx a deadline if it has none, and writes the time left into m.
func WithTimeout(ctx context.Context, m *nats.Msg) (context.Context, context.CancelFunc) {
	cancel := context.CancelFunc(func() {})
	d, ok := ctx.Deadline()
	if !ok {
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		d, _ = ctx.Deadline()
	}
	m.Header.Set(HeaderTimeout, strconv.FormatInt(max(1, time.Until(d).Milliseconds()), 10))
	return ctx, cancel
}

// TransportError is the fault for a request that the bus did not bring to an answer.
func TransportError(err error, who string) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fault.Unavailable(250*time.Millisecond, "%s does not answer at the moment", who).Because(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "%s did not answer before the deadline", who).Because(err)
	case errors.Is(err, context.Canceled):
		return fault.New(codes.Canceled, fault.ReasonUnavailable, "the call was cancelled").Because(err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the request is larger than the bus carries (2 MiB)").Because(err)
	}
	return fault.Unavailable(time.Second, "the bus cannot be reached").Because(err)
}

// Reader is the reading end of a stream.
type Reader struct {
	peer   Peer
	credit string // subject
	stream string
	sub    *nats.Subscription
	window int
	owed   int
	given  time.Time     // when credit was last given
	every  time.Duration // within which credit is given
	next   uint64
	once   sync.Once
}

// window is how many answers may be under way to a reader.
const window = 256

// creditEvery is how often an idle reader says that it is still there; a writer that hears
// nothing for streamIdle ends the stream.
const (
	creditEvery = 5 * time.Second
	streamIdle  = 20 * time.Second
)

// Open begins a stream. Next returns its answers; Close ends it early.
func (p Peer) Open(ctx context.Context, component, op string, s subject.Service, req proto.Message) (*Reader, error) {
	if s == (subject.Service{}) {
		s = subject.Nothing()
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req) // equal requests have equal digests
	if err != nil {
		return nil, fault.Internal(err, "the request cannot be encoded")
	}
	inbox := p.Conn.NewInbox()
	sub, err := p.Conn.SubscribeSync(inbox)
	if err != nil {
		return nil, TransportError(err, component)
	}
	if err := sub.SetPendingLimits(2*window, -1); err != nil {
		return nil, errors.Join(TransportError(err, component), sub.Unsubscribe())
	}
	r := &Reader{peer: p, credit: subject.Str(component, subject.StreamCredit, s, p.ID), stream: rand.Text(), sub: sub, window: window, next: 1, given: time.Now(), every: creditEvery}
	m := nats.NewMsg(subject.Str(component, op, s, p.ID))
	m.Reply, m.Data = inbox, b
	m.Header.Set(HeaderStream, r.stream)
	m.Header.Set(HeaderCredit, strconv.Itoa(window))
	if err := p.Conn.PublishMsg(m); err != nil {
		return nil, errors.Join(TransportError(err, component), sub.Unsubscribe())
	}
	return r, nil
}

// Next waits for the next answer. It returns ErrEnd after the last one, or the stream's fault.
// A reader that stays away from Next for longer than 20 s loses the stream. Next is for one
// goroutine at a time; Close may be called from another.
func (r *Reader) Next(ctx context.Context, v proto.Message) error {
	for {
		wait, cancel := context.WithTimeout(ctx, r.every)
		m, err := r.sub.NextMsgWithContext(wait)
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			return TransportError(ctx.Err(), "the stream")
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			if err := r.give(); err != nil {
				return err
			}
			continue
		case errors.Is(err, nats.ErrSlowConsumer):
			return errLost()
		case err != nil:
			return TransportError(err, "the stream")
		}
		if err := ReplyError(m); err != nil {
			return err
		}
		if m.Header.Get("Status") == "503" {
			return TransportError(nats.ErrNoResponders, "the component")
		}
		if end := m.Header.Get(HeaderEnd); end != "" {
			if n, _ := strconv.ParseUint(end, 10, 64); n != r.next-1 {
				return errLost()
			}
			return ErrEnd
		}
		if seq, _ := strconv.ParseUint(m.Header.Get(HeaderSequence), 10, 64); seq != r.next {
			return errLost()
		}
		r.next++
		if r.owed++; r.owed >= r.window/2 || time.Since(r.given) >= r.every {
			if err := r.give(); err != nil {
				return err
			}
		}
		if err := proto.Unmarshal(m.Data, v); err != nil {
			return fault.Internal(err, "an answer of the stream is unreadable")
		}
		return nil
	}
}

func errLost() error {
	return fault.Unavailable(0, "answers of the stream were lost; begin again after the last one seen")
}

// ErrEnd says that a stream is complete.
var ErrEnd = errors.New("end of stream")

// Close ends the stream. It may be called more than once.
func (r *Reader) Close() {
	r.once.Do(func() {
		_ = r.sub.Unsubscribe() // the connection may be gone, and then so is the stream
		_ = r.send("0")
	})
}

func (r *Reader) give() error {
	n := r.owed
	r.owed, r.given = 0, time.Now()
	return r.send("+" + strconv.Itoa(n))
}

func (r *Reader) send(credit string) error {
	m := nats.NewMsg(r.credit)
	m.Header.Set(HeaderStream, r.stream)
	m.Header.Set(HeaderCredit, credit)
	if err := r.peer.Conn.PublishMsg(m); err != nil {
		return TransportError(err, "the stream")
	}
	return nil
}
