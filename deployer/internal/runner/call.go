package runner

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
)

// call is one message for a service. It is answered exactly once: by the worker that begins it, by
// its deadline while it still waits, or by the end of its placement.
type call struct {
	msg      *nats.Msg
	nc       *nats.Conn
	to       subject.CallMessage
	trace    string
	arrived  time.Time
	deadline time.Time
	taken    atomic.Bool
	timer    *time.Timer
}

// take makes the caller of it the one who answers; only the first succeeds.
func (c *call) take() bool {
	if !c.taken.CompareAndSwap(false, true) {
		return false
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	return true
}

// traceKey finds the trace context of a running call.
type traceKey struct{}

// reply sends the answer. What cannot be sent is lost with its connection, and the caller's deadline
// tells it so.
func (p *placement) reply(c *call, id string, out []byte, err error) {
	m := nats.NewMsg(c.msg.Reply)
	m.Header.Set(rpc.HeaderRevision, p.revisionText)
	if id != "" {
		m.Header.Set(rpc.HeaderInstance, id)
	}
	m.Data = out
	if err != nil {
		rpc.ErrorReply(m, err)
	}
	if perr := c.nc.PublishMsg(m); perr != nil {
		p.r.log.Debug("an answer could not be sent", "service", p.service, "error", perr)
	}
}

// refusal is the fault for a gate's decision about a call.
func (p *placement) refusal(d gate.Decision, c subject.CallMessage) error {
	switch d {
	case gate.NoLease:
		return fault.New(codes.Unavailable, fault.ReasonLeaseExpired, "the runner of %s has lost touch with the fence and acts no more", p.service).
			Retry(500 * time.Millisecond)
	case gate.NotGranted:
		return fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "capability %s does not allow call:%s on svc:%s", c.ID, c.Op, p.service).
			With("holder", c.ID).With("decision", d.String())
	}
	return fault.New(codes.Unauthenticated, fault.ReasonHandleRefused, "the handle is not valid (unknown, revoked or expired)").
		Next("ask whoever granted it for a new one")
}

// onMessage takes a message from the bus: it checks what can be checked at once and puts it in the
// mailbox. It never waits.
func (p *placement) onMessage(nc *nats.Conn, m *nats.Msg) {
	if m.Reply == "" {
		return // nobody waits, and nothing may happen without an answer
	}
	c := &call{msg: m, nc: nc, arrived: time.Now(), trace: m.Header.Get(rpc.HeaderTraceparent)}
	if err := p.admit(c); err != nil {
		p.errors.Add(1)
		p.calls.Add(1)
		p.reply(c, "", nil, err)
		return
	}
	p.enqueue(c)
}

// parse reads the subject of a call; with the check off, whatever its tokens are.
func parse(s string) (subject.CallMessage, error) {
	to, err := subject.ParseCall(s)
	if t := strings.Split(s, "."); err != nil && len(t) > 4 && !check.On(check.Tokens) {
		return subject.CallMessage{Service: subject.Service{Namespace: t[1], Name: t[2]}, Op: strings.Join(t[3:len(t)-1], "."), ID: t[len(t)-1]}, nil
	}
	return to, err
}

func (p *placement) admit(c *call) error {
	var err error
	if c.to, err = parse(c.msg.Subject); err != nil {
		return fault.New(codes.InvalidArgument, fault.ReasonInvalidSubject, "%v", err)
	}
	if d := p.r.table.Call(c.to.ID, p.id, c.to.Op); d != gate.Allowed {
		return p.refusal(d, c.to)
	}
	if len(c.msg.Data) > maxPayload {
		return fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the payload has %d bytes; the bound is %d", len(c.msg.Data), maxPayload).
			AddField("payload", "at most %d bytes", maxPayload)
	}
	limit, ok := p.ops[c.to.Op]
	if len(p.ops) > 0 && !ok {
		return fault.New(codes.NotFound, fault.ReasonOperationUnknown, "%s has no operation %q; it has: %s", p.service, c.to.Op, p.opList).
			With("operations", p.opList)
	}
	if limit <= 0 {
		limit = rpc.DefaultTimeout
	}
	c.deadline = c.arrived.Add(min(limit, rpc.Timeout(c.msg)))
	if until := p.throttled.Load(); until > time.Now().UnixNano() {
		return fault.New(codes.ResourceExhausted, fault.ReasonThrottled, "%s is throttled: it is over a limit", p.service).
			Retry(time.Until(time.Unix(0, until)))
	}
	if p.rate != nil && !p.rate.Allow() {
		p.limited("calls_per_second", "hard", uint64(p.manifest.GetLimits().GetCallsPerSecond()), uint64(p.manifest.GetLimits().GetCallsPerSecond()), "throttle")
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%s takes %d calls a second", p.service, p.manifest.GetLimits().GetCallsPerSecond()).
			Retry(time.Second / time.Duration(max(1, p.manifest.GetLimits().GetCallsPerSecond())))
	}
	return nil
}

// enqueue puts a call in the mailbox or refuses it.
func (p *placement) enqueue(c *call) {
	size := int64(len(c.msg.Data))
	if p.queued.Add(size) > maxMailboxBytes {
		p.queued.Add(-size)
		p.full(c)
		return
	}
	// Before the mailbox, so that whoever takes the call finds the timer.
	c.timer = time.AfterFunc(time.Until(c.deadline), func() { p.expire(c) })
	select {
	case p.mailbox <- c:
	default:
		p.queued.Add(-size)
		if c.take() {
			p.full(c)
		}
		return
	}
	if depth, soft := len(p.mailbox), cap(p.mailbox)/2; depth > soft {
		if !p.soft.Swap(true) {
			p.limited("mailbox", "soft", uint64(depth), uint64(soft), "warn")
		}
	} else if depth <= soft/2 {
		p.soft.Store(false)
	}
}

// full refuses a call for which there is no room.
func (p *placement) full(c *call) {
	p.calls.Add(1)
	p.errors.Add(1)
	p.limited("mailbox", "hard", uint64(len(p.mailbox)), uint64(cap(p.mailbox)), "throttle")
	p.reply(c, "", nil, fault.New(codes.ResourceExhausted, fault.ReasonMailboxFull,
		"%d messages wait for %s already", len(p.mailbox), p.service).Retry(p.drainTime()))
}

// drainTime is about how long half of the mailbox takes at the present pace.
func (p *placement) drainTime() time.Duration {
	calls := p.calls.Load()
	if calls == 0 {
		return 100 * time.Millisecond
	}
	each := time.Duration(p.latency.Load()/calls) * time.Microsecond
	wait := each * time.Duration(len(p.mailbox)/2) / time.Duration(max(1, len(p.slots)))
	return min(max(wait, 50*time.Millisecond), 5*time.Second)
}

// expire answers a call whose time ran out while it waited.
func (p *placement) expire(c *call) {
	if !c.take() {
		return
	}
	p.calls.Add(1)
	p.errors.Add(1)
	p.reply(c, "", nil, fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded,
		"the call waited for an instance of %s until its deadline", p.service))
}

// serve answers one call with an instance, or puts it back when the instance had ended before it.
func (p *placement) serve(s *slot, w *worker, c *call) {
	p.queued.Add(-int64(len(c.msg.Data)))
	if !c.take() {
		return
	}
	out, err := p.run(s, w, c)
	if errors.Is(err, instance.ErrEnded) && time.Now().Before(c.deadline) {
		c.taken.Store(false)
		p.enqueue(c)
		return
	}
	p.calls.Add(1)
	if err != nil {
		p.errors.Add(1)
	}
	p.latency.Add(uint64(time.Since(c.arrived).Microseconds()))
	p.reply(c, s.id, out, err)
	p.crashed(s, err)
}

// run asks the gate again, now that the effect begins, and calls the instance.
func (p *placement) run(s *slot, w *worker, c *call) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.r.log.Error("panic in a call", "service", p.service, "instance", s.id, "panic", r)
			out, err = nil, fault.Internal(nil, "the runner failed inside; its log has the cause")
		}
	}()
	if d := p.r.table.Call(c.to.ID, p.id, c.to.Op); d != gate.Allowed && check.On(check.Effect) {
		return nil, p.refusal(d, c.to)
	}
	ctx, cancel := context.WithDeadline(w.life, c.deadline)
	defer cancel()
	if c.trace != "" {
		ctx = context.WithValue(ctx, traceKey{}, c.trace)
	}
	p.running.Add(1)
	defer p.running.Add(-1)
	if !p.native {
		p.r.guests.Add(1)
		defer p.r.guests.Add(-1)
	}
	return w.in.Call(ctx, request(c))
}
