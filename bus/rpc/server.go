package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Caller is who asks, about what: the server's own statement, read from the subject.
type Caller struct {
	subject.System
	// Component is the caller's component name, empty for holders.
	Component string
	// Digest is the hex SHA-256 of the request as it was sent.
	Digest string
	// Traceparent is the W3C trace context, possibly empty.
	Traceparent string
	gate        *gate.Table
	family      string // empty for components
}

// Recheck asks the gate again; call it right before an effect that comes long after receipt.
func (c Caller) Recheck() error { return decide(c.gate, c.System, nil) }

// Denied is told of every refusal by the gate.
type Denied func(m subject.System, d gate.Decision)

// Options of a Server.
type Options struct {
	// Conn is the component's connection in KERNEL.
	Conn *nats.Conn
	// Component whose calls are answered.
	Component string
	Gate      *gate.Table
	Log       *slog.Logger
	// Denied may be nil.
	Denied Denied
	// Concurrency bounds requests of holders under way, and of components apart; default 256. Streams
	// are bounded apart, by the same number. One holder gets a part of it, and so does all that
	// descends from one grant of the root.
	Concurrency int
	// StreamIdle is how long a stream's reader may give no sign; default 20 s, well above the 5 s
	// in which a Reader gives one.
	StreamIdle time.Duration
}

// Server answers a component's system calls.
type Server struct {
	o       Options
	unary   map[string]func(context.Context, Caller, bool, []byte) ([]byte, error)
	streams map[string]func(context.Context, Caller, bool, []byte, func(proto.Message) error) error
	slots   *share
	lanes   *share
	check   protovalidate.Validator

	run     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	subs    []*nats.Subscription
	mu      sync.Mutex
	open    map[string]*writer // mu; by caller id and stream id
	closing bool               // mu; no request begins any more
}

// NewServer makes a server; add operations with Handle and HandleStream, then Start it.
func NewServer(o Options) (*Server, error) {
	if o.Concurrency == 0 {
		o.Concurrency = 256
	}
	if o.StreamIdle == 0 {
		o.StreamIdle = streamIdle
	}
	v, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, check: v, slots: newShare(o.Concurrency), lanes: newShare(o.Concurrency), open: map[string]*writer{},
		unary:   map[string]func(context.Context, Caller, bool, []byte) ([]byte, error){},
		streams: map[string]func(context.Context, Caller, bool, []byte, func(proto.Message) error) error{},
	}
	s.run, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// message is a pointer to a generated message.
type message[T any] interface {
	*T
	proto.Message
}

// Handle answers an operation. f's error becomes a fault; ctx ends at the caller's deadline.
func Handle[Req, Resp any, Q message[Req], R message[Resp]](s *Server, op string, f func(ctx context.Context, c Caller, req Q) (R, error)) {
	s.unary[op] = func(ctx context.Context, c Caller, json bool, b []byte) ([]byte, error) {
		req := Q(new(Req))
		if err := s.decode(json, b, req); err != nil {
			return nil, err
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err
		}
		return encode(json, resp)
	}
}

// HandleStream answers an operation with a stream: send blocks until the reader has credit and
// fails when the reader is gone. When f returns nil the stream is complete.
func HandleStream[Req, Resp any, Q message[Req], R message[Resp]](s *Server, op string, f func(ctx context.Context, c Caller, req Q, send func(R) error) error) {
	s.streams[op] = func(ctx context.Context, c Caller, json bool, b []byte, send func(proto.Message) error) error {
		req := Q(new(Req))
		if err := s.decode(json, b, req); err != nil {
			return err
		}
		return f(ctx, c, req, func(r R) error { return send(r) })
	}
}

func (s *Server) decode(json bool, b []byte, req proto.Message) error {
	if err := decode(json, b, req); err != nil {
		name := req.ProtoReflect().Descriptor().FullName()
		if field, ok := unknownField(err); ok {
			return fault.Invalid(field, "%s has no such field", name)
		}
		return fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "the body is not a %s: %v", name, err)
	}
	return Validate(s.check, req)
}

// Validate checks a request by the rules in its proto and names every field that breaks one.
func Validate(v protovalidate.Validator, req proto.Message) error {
	err := v.Validate(req)
	if err == nil {
		return nil
	}
	ve, ok := err.(*protovalidate.ValidationError)
	if !ok {
		return fault.Internal(err, "the request cannot be checked")
	}
	f := fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "the request is not valid")
	for i, x := range ve.Violations {
		path := protovalidate.FieldPathString(x.Proto.GetField())
		text := x.Proto.GetMessage()
		if text == "" {
			text = "breaks rule " + x.Proto.GetRuleId()
		}
		if i == 0 {
			f.Message = fmt.Sprintf("%s: %s", path, text)
		}
		f.AddField(path, "%s", text)
	}
	return f
}

// Start subscribes. Operations must have been added before.
func (s *Server) Start() error {
	for _, sub := range []struct {
		subject string
		f       nats.MsgHandler
	}{{subject.SysServing(s.o.Component), s.onCall}, {subject.StrServing(s.o.Component), s.onStream}} {
		x, err := s.o.Conn.QueueSubscribe(sub.subject, s.o.Component, sub.f)
		if err != nil {
			return err
		}
		s.subs = append(s.subs, x)
	}
	return s.o.Conn.Flush()
}

// Close stops taking requests, ends streams with UNAVAILABLE, and waits for what is under way
// until ctx ends; then it cancels it and waits. Requests that were delivered but had not begun
// are answered with UNAVAILABLE.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	for _, w := range s.open {
		w.end(fault.Unavailable(250*time.Millisecond, "%s is stopping; open the stream again after the last record seen", s.o.Component))
	}
	s.mu.Unlock()
	// A drain that a closing connection overtakes is never said to be over.
	lost := s.o.Conn.StatusChanged(nats.CLOSED)
	for _, x := range s.subs {
		closed := x.StatusChanged(nats.SubscriptionClosed)
		if x.Drain() != nil {
			continue // a lost connection delivers nothing either
		}
		select {
		case <-closed:
		case <-lost:
		case <-ctx.Done():
			_ = x.Unsubscribe() // it may have closed meanwhile
		}
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.stop()
		<-done
	}
	s.stop()
	_ = s.o.Conn.Flush() // best effort: the answers are in the buffer
}

// begin counts a request, unless the server is closing.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	return true
}

func (s *Server) admit(m *nats.Msg) (Caller, error) {
	sys, err := subject.ParseSystem(m.Subject)
	if err != nil {
		return Caller{}, fault.New(codes.InvalidArgument, fault.ReasonInvalidSubject, "%v", err)
	}
	if err := decide(s.o.Gate, sys, s.o.Denied); err != nil {
		return Caller{}, err
	}
	sum := sha256.Sum256(m.Data)
	c := Caller{
		System: sys, Component: s.o.Gate.Component(sys.ID), gate: s.o.Gate,
		Digest: hex.EncodeToString(sum[:]), Traceparent: m.Header.Get(HeaderTraceparent),
	}
	if c.Component == "" {
		c.family = s.o.Gate.Family(sys.ID)
	}
	return c, nil
}

func (s *Server) onCall(m *nats.Msg) {
	if m.Reply == "" {
		return // nobody waits, and no effect may go without an answer
	}
	c, err := s.admit(m)
	if err != nil {
		s.answer(m, nil, err)
		return
	}
	f := s.unary[c.Op]
	if f == nil {
		s.answer(m, nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "%s has no operation %q", s.o.Component, c.Op))
		return
	}
	if !s.slots.enter(c.ID, c.family) {
		s.answer(m, nil, s.busy())
		return
	}
	if !s.begin() {
		s.slots.leave(c.ID, c.family)
		s.answer(m, nil, s.stopping())
		return
	}
	go func() {
		defer s.wg.Done()
		defer s.slots.leave(c.ID, c.family)
		s.work(c, m, f)
	}()
}

// work runs one request and answers it once: with its result, or at its deadline with that,
// though it may still be running then.
func (s *Server) work(c Caller, m *nats.Msg, f func(context.Context, Caller, bool, []byte) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(s.run, Timeout(m))
	defer cancel()
	var once sync.Once
	overdue := make(chan struct{})
	inTime := context.AfterFunc(ctx, func() {
		defer close(overdue)
		once.Do(func() { s.answer(m, nil, s.ended(ctx.Err())) })
	})
	b, err := s.guard(c, func() ([]byte, error) { return f(ctx, c, isJSON(m.Header), m.Data) })
	once.Do(func() { s.answer(m, b, s.ended(err)) })
	if !inTime() {
		<-overdue
	}
}

// ended is an error of a handler as its caller shall see it: the end of a context is no defect.
func (s *Server) ended(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok || err == nil {
		return err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "%s did not finish before the deadline; it may still take effect", s.o.Component).Because(err)
	case errors.Is(err, context.Canceled):
		return s.stopping()
	case errors.Is(err, nats.ErrMaxPayload):
		return fault.New(codes.ResourceExhausted, fault.ReasonTooLarge, "the answer is larger than the bus carries (2 MiB); ask for less at a time").Final().Because(err)
	}
	return err
}

func (s *Server) stopping() *fault.Error {
	return fault.Unavailable(250*time.Millisecond, "%s is stopping", s.o.Component)
}

func (s *Server) busy() error {
	return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%s has too many requests under way already, of this holder or in all", s.o.Component).Retry(100 * time.Millisecond)
}

// guard turns a panic into a fault: one request's defect must not end the component.
func (s *Server) guard(c Caller, f func() ([]byte, error)) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.o.Log.Error("panic in a request", "op", c.Op, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fault.Internal(fmt.Errorf("panic: %v", p), "%s failed inside; its log has the cause", s.o.Component)
		}
	}()
	return f()
}

func (s *Server) answer(m *nats.Msg, b []byte, err error) {
	r := nats.NewMsg(m.Reply)
	r.Data = b
	if isJSON(m.Header) {
		r.Header.Set(headerContentType, typeJSON)
	}
	if err != nil {
		f := fault.From(err)
		if f.Code == codes.Internal {
			s.o.Log.Error("request failed inside", "subject", m.Subject, "error", err, "cause", f.Unwrap())
		}
		ErrorReply(r, f)
	}
	perr := s.o.Conn.PublishMsg(r)
	if errors.Is(perr, nats.ErrMaxPayload) {
		ErrorReply(r, s.ended(perr))
		perr = s.o.Conn.PublishMsg(r)
	}
	if perr != nil {
		s.o.Log.Warn("an answer could not be sent", "subject", m.Subject, "error", perr)
	}
}

// decide asks the gate and explains a refusal.
func decide(t *gate.Table, m subject.System, denied Denied) error {
	d := t.System(m)
	if d == gate.Allowed {
		return nil
	}
	if denied != nil {
		denied(m, d)
	}
	return Refusal(d, m)
}

// Refusal is the fault for a gate's decision about a system call.
func Refusal(d gate.Decision, m subject.System) error {
	switch d {
	case gate.NoLease:
		return fault.New(codes.Unavailable, fault.ReasonLeaseExpired, "%s has lost touch with the fence and acts no more", m.Component).Retry(500 * time.Millisecond)
	case gate.NotGranted:
		return fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "capability %s does not allow %s.%s on %s", m.ID, m.Component, m.Op, m.Service).
			With("holder", m.ID).With("decision", d.String())
	}
	return fault.New(codes.Unauthenticated, fault.ReasonHandleRefused, "the handle is not valid (unknown, revoked or expired)").
		Next("ask whoever granted it for a new one")
}
