package rpc

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

type send = func(*solov1.WatchResponse) error

// watching serves the stream `watch` by f, and returns where the end of f is told.
func (w *world) watching(o Options, f func(ctx context.Context, req *solov1.WatchRequest, s send) error) (*Server, <-chan error) {
	ended := make(chan error, 16)
	s := w.serve(o, func(s *Server) {
		HandleStream(s, "watch", func(ctx context.Context, _ Caller, req *solov1.WatchRequest, s send) error {
			err := f(ctx, req, s)
			ended <- err
			return err
		})
	})
	return s, ended
}

func event(n uint64) *solov1.WatchResponse {
	return &solov1.WatchResponse{Event: &solov1.Event{Sequence: n}}
}

// count sends n events.
func count(n uint64) func(context.Context, *solov1.WatchRequest, send) error {
	return func(_ context.Context, _ *solov1.WatchRequest, s send) error {
		for i := range n {
			if err := s(event(i + 1)); err != nil {
				return err
			}
		}
		return nil
	}
}

func open(t *testing.T, p Peer) *Reader {
	t.Helper()
	r, err := p.Open(within(t), subject.Registry, "watch", acme, &solov1.WatchRequest{Service: "acme/billing"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *Reader) read(t *testing.T) (uint64, error) {
	t.Helper()
	var v solov1.WatchResponse
	err := r.Next(within(t), &v)
	return v.GetEvent().GetSequence(), err
}

func TestStreamInOrderToTheEnd(t *testing.T) {
	const n = 5 * maxCredit
	w := newWorld(t)
	w.watching(Options{}, count(n))
	r := open(t, w.holder("svc:*/*=watch"))
	for i := range uint64(n) {
		if got, err := r.read(t); err != nil || got != i+1 {
			t.Fatalf("answer %d: %d %v", i+1, got, err)
		}
	}
	if _, err := r.read(t); !errors.Is(err, ErrEnd) {
		t.Errorf("end: %v", err)
	}
}

// A reader that does not read holds its writer at the window and nobody else.
func TestStreamBackPressure(t *testing.T) {
	w := newWorld(t)
	var sent atomic.Int64
	full := make(chan struct{}, 1)
	_, ended := w.watching(Options{}, func(_ context.Context, req *solov1.WatchRequest, s send) error {
		for i := uint64(1); i <= 4*window; i++ {
			if err := s(event(i)); err != nil {
				return err
			}
			if sent.Add(1) == window {
				full <- struct{}{}
			}
		}
		return nil
	})
	p := w.holder("svc:*/*=watch")
	slow := open(t, p)
	await(t, "a full window", full)
	// The writer of the slow reader stands; a second stream runs beside it all the same.
	if got := sent.Load(); got != window {
		t.Fatalf("%d answers for %d credits", got, window)
	}
	for i := range uint64(4 * window) {
		if got, err := slow.read(t); err != nil || got != i+1 {
			t.Fatalf("answer %d: %d %v", i+1, got, err)
		}
		if got, most := sent.Load(), int64(i+1)+window; got > most {
			t.Fatalf("%d sent when %d were read", got, i+1)
		}
	}
	if _, err := slow.read(t); !errors.Is(err, ErrEnd) {
		t.Error(err)
	}
	if err := await(t, "the end", ended); err != nil {
		t.Error(err)
	}
}

func TestStreamClosedByItsReader(t *testing.T) {
	w := newWorld(t)
	_, ended := w.watching(Options{}, count(math.MaxUint32))
	r := open(t, w.holder("svc:*/*=watch"))
	if _, err := r.read(t); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
	if err := await(t, "the writer's end", ended); !errors.Is(err, errReaderGone) {
		t.Errorf("the writer ended with %v", err)
	}
	if _, err := r.read(t); err == nil {
		t.Error("a closed stream can be read")
	}
}

func TestStreamClosedByItsComponent(t *testing.T) {
	w := newWorld(t)
	s, ended := w.watching(Options{}, func(ctx context.Context, _ *solov1.WatchRequest, s send) error {
		if err := s(event(1)); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	r := open(t, w.holder("svc:*/*=watch"))
	if _, err := r.read(t); err != nil {
		t.Fatal(err)
	}
	s.Close(within(t))
	await(t, "the writer's end", ended)
	_, err := r.read(t)
	if f := wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable); !f.Retryable {
		t.Error("not retryable")
	}
	next := open(t, r.peer)
	_, err = next.read(t)
	wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable)
}

func TestStreamOfAnIdleReaderEnds(t *testing.T) {
	w := newWorld(t)
	_, ended := w.watching(Options{StreamIdle: 40 * time.Millisecond}, count(2*window))
	open(t, w.holder("svc:*/*=watch")) // and never reads
	wantFault(t, await(t, "the writer's end", ended), codes.DeadlineExceeded, fault.ReasonDeadlineExceeded)
}

// A reader that gets an answer now and then gives credit in time, although it never waits
// long and its window never fills.
func TestStreamThatTricklesStaysOpen(t *testing.T) {
	w := newWorld(t)
	next := make(chan struct{})
	credits := make(chan string, 64)
	w.watching(Options{}, func(ctx context.Context, _ *solov1.WatchRequest, s send) error {
		for i := uint64(1); i <= 3; i++ {
			select {
			case <-next:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := s(event(i)); err != nil {
				return err
			}
		}
		return nil
	})
	p := w.holder("svc:*/*=watch")
	tap := w.conn()
	if _, err := tap.Subscribe(subject.Str(subject.Registry, subject.StreamCredit, acme, p.ID), func(m *nats.Msg) { credits <- m.Header.Get(HeaderCredit) }); err != nil {
		t.Fatal(err)
	}
	if err := tap.Flush(); err != nil {
		t.Fatal(err)
	}
	r := open(t, p)
	for i := uint64(1); i <= 3; i++ {
		r.given = time.Now().Add(-r.every) // so long ago that credit is due with the next answer
		go func() { next <- struct{}{} }()
		if got, err := r.read(t); err != nil || got != i {
			t.Fatalf("answer %d: %d %v", i, got, err)
		}
	}
	var given int
	for given < 3 {
		n, err := strconv.Atoi(await(t, "credit", credits))
		if err != nil {
			t.Fatal(err)
		}
		given += n
	}
}

func TestStreamFails(t *testing.T) {
	w := newWorld(t)
	w.watching(Options{}, func(_ context.Context, req *solov1.WatchRequest, s send) error {
		switch req.GetService() {
		case "panic":
			panic("secret")
		case "large":
			return s(&solov1.WatchResponse{Event: &solov1.Event{Message: string(make([]byte, 3<<20))}})
		}
		if err := s(event(1)); err != nil {
			return err
		}
		return fault.New(codes.DataLoss, fault.ReasonDataLoss, "it is broken")
	})
	p := w.holder("svc:*/*=watch,list")
	ask := func(p Peer, op, service string) error {
		r, err := p.Open(within(t), subject.Registry, op, acme, &solov1.WatchRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			if err := r.Next(within(t), &solov1.WatchResponse{}); err != nil {
				return err
			}
		}
	}
	wantFault(t, ask(p, "watch", "x"), codes.DataLoss, fault.ReasonDataLoss)
	wantFault(t, ask(p, "watch", "panic"), codes.Internal, fault.ReasonInternal)
	wantFault(t, ask(p, "watch", "large"), codes.ResourceExhausted, fault.ReasonTooLarge)
	wantFault(t, ask(p, "watch", ""), codes.InvalidArgument, fault.ReasonInvalidArgument)
	wantFault(t, ask(w.holder("svc:bob/*=watch"), "watch", "x"), codes.PermissionDenied, fault.ReasonNotGranted)
	r, err := p.Open(within(t), subject.Audit, "read", subject.Service{}, &solov1.AuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wantFault(t, r.Next(within(t), &solov1.AuditResponse{}), codes.Unavailable, fault.ReasonUnavailable)
}

// A stream that its component does not have is answered, not mistaken for a credit.
func TestUnknownStreamIsAnswered(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) {})
	r := open(t, w.holder("svc:*/*=watch"))
	_, err := r.read(t)
	wantFault(t, err, codes.Unimplemented, fault.ReasonUnimplemented)
}

func TestStreamEndsWithItsRight(t *testing.T) {
	w := newWorld(t)
	revoked := make(chan struct{})
	w.watching(Options{}, func(_ context.Context, _ *solov1.WatchRequest, s send) error {
		if err := s(event(1)); err != nil {
			return err
		}
		<-revoked
		return s(event(2))
	})
	p := w.holder("svc:*/*=watch")
	r := open(t, p)
	if _, err := r.read(t); err != nil {
		t.Fatal(err)
	}
	w.revoke(p.ID)
	close(revoked)
	_, err := r.read(t)
	wantFault(t, err, codes.Unauthenticated, fault.ReasonHandleRefused)
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.watching(Options{Concurrency: 1}, func(ctx context.Context, _ *solov1.WatchRequest, s send) error {
		if err := s(event(1)); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	p := w.holder("svc:*/*=watch")
	first := open(t, p)
	if _, err := first.read(t); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, p).read(t)
	wantFault(t, err, codes.ResourceExhausted, fault.ReasonRateLimited)
}

// rawStream opens a stream with headers of its own and returns where the answers come.
func rawStream(t *testing.T, p Peer, h nats.Header) *nats.Subscription {
	t.Helper()
	sub, err := p.Conn.SubscribeSync(p.Conn.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg(subject.Str(subject.Registry, "watch", acme, p.ID))
	m.Reply, m.Header = sub.Subject, h
	if m.Data, err = proto.Marshal(&solov1.WatchRequest{Service: "acme/billing"}); err != nil {
		t.Fatal(err)
	}
	if h.Get("Content-Type") != "" {
		m.Data = []byte(`{"service":"acme/billing"}`)
	}
	if err := p.Conn.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	return sub
}

func next(t *testing.T, s *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := s.NextMsgWithContext(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestStreamOnTheWire(t *testing.T) {
	w := newWorld(t)
	w.watching(Options{}, count(2))
	p := w.holder("svc:*/*=watch")
	s := rawStream(t, p, nats.Header{HeaderStream: {"one"}, HeaderCredit: {"5"}, "Content-Type": {"application/json"}})
	for _, want := range []string{"1", "2"} {
		m := next(t, s)
		var v solov1.WatchResponse
		if err := protojson.Unmarshal(m.Data, &v); err != nil || m.Header.Get(HeaderSequence) != want || m.Header.Get(HeaderEnd) != "" {
			t.Errorf("answer %s: %v %s", want, m.Header, m.Data)
		}
	}
	if m := next(t, s); m.Header.Get(HeaderEnd) != "2" || len(m.Data) != 0 {
		t.Errorf("end mark %v %s", m.Header, m.Data)
	}
}

func TestStreamIDsAreUnique(t *testing.T) {
	w := newWorld(t)
	_, ended := w.watching(Options{}, count(10))
	p := w.holder("svc:*/*=watch")
	h := nats.Header{HeaderStream: {"same"}} // without credit: one answer, and then it waits
	first := rawStream(t, p, h)
	next(t, first)
	wantFault(t, ReplyError(next(t, rawStream(t, p, h))), codes.AlreadyExists, fault.ReasonInvalidArgument)
	credit := nats.NewMsg(subject.Str(subject.Registry, subject.StreamCredit, acme, p.ID))
	for _, c := range []string{"x", "-4", "+9"} {
		credit.Header = nats.Header{HeaderStream: {"same"}, HeaderCredit: {c}}
		if err := p.Conn.PublishMsg(credit); err != nil {
			t.Fatal(err)
		}
	}
	for range 9 {
		next(t, first)
	}
	if m := next(t, first); m.Header.Get(HeaderEnd) != "10" {
		t.Errorf("end mark %v", m.Header)
	}
	if err := await(t, "the end", ended); err != nil {
		t.Error(err)
	}
}

// Answers that were lost on the way are noticed, at the end mark at the latest.
func TestLostAnswersAreNoticed(t *testing.T) {
	w := newWorld(t)
	p := w.holder("svc:*/*=watch")
	component := w.conn()
	for _, gap := range []nats.Header{{HeaderSequence: {"2"}}, {HeaderEnd: {"1"}}} {
		sub, err := component.Subscribe(subject.StrServing(subject.Registry), func(m *nats.Msg) {
			if m.Reply != "" {
				if err := m.RespondMsg(&nats.Msg{Header: gap}); err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := component.Flush(); err != nil {
			t.Fatal(err)
		}
		_, err = open(t, p).read(t)
		wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable)
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}
