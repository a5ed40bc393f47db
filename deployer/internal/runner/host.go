package runner

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/nats-io/nats.go"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// guestHost is what one instance reaches: its service's state, other services with its service's
// rights, and its log.
type guestHost struct {
	p    *placement
	id   string
	tail *logline.Tail
}

// Ask answers one solo.call.
func (h *guestHost) Ask(ctx context.Context, op string, payload []byte) ([]byte, error) {
	switch {
	case op == abi.OpBusCall:
		f, err := abi.DecodeN(payload, 3)
		if err != nil {
			return nil, fault.Invalid("payload", "%v", err)
		}
		out, err := h.p.callOut(ctx, string(f[0]), string(f[1]), f[2])
		if err != nil {
			return nil, err
		}
		return abi.Fields{present(out)}.Encode(), nil
	case strings.HasPrefix(op, "state."):
		if !h.p.r.table.Leased() {
			return nil, fault.Unavailable(0, "the runner has lost touch with the fence and acts no more")
		}
		return h.p.state.ask(ctx, h.p.epoch, op, payload)
	}
	return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "this node offers no op %q to guests", logline.Clean(op))
}

// levels are the names of solo.log's levels.
func levelName(level uint32) string {
	switch level {
	case abi.LevelDebug:
		return "debug"
	case abi.LevelInfo:
		return "info"
	case abi.LevelWarn:
		return "warn"
	}
	return "error"
}

// Log takes one line of solo.log.
func (h *guestHost) Log(level uint32, line string) {
	h.tail.Add(line)
	h.p.r.hub.log(&solov1.LogRecord{Service: h.p.service, Instance: h.id, Stream: "log", Level: levelName(level), Line: line})
}

// Output takes one line of stdout or stderr.
func (h *guestHost) Output(stream, line string) {
	h.tail.Add(line)
	h.p.r.hub.log(&solov1.LogRecord{Service: h.p.service, Instance: h.id, Stream: stream, Line: line})
}

// callOut calls another service with the rights of this one.
func (p *placement) callOut(ctx context.Context, service, op string, payload []byte) ([]byte, error) {
	to, err := subject.ParseService(service)
	if err != nil {
		return nil, fault.Invalid("service", "%v", err)
	}
	if !subject.ValidOp(op) {
		return nil, fault.Invalid("op", "%q is no operation name", op)
	}
	link := p.callingLink()
	if link == nil {
		return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "%s has no rights to call out", p.service).
			With("object", "svc:"+service).With("verb", "call:"+op).
			Next("add \"svc:%s=call:%s\" to grants in the manifest of %s and update it (`solo update`)", service, op, p.service)
	}
	nc, id, err := link.Wait(ctx)
	if err != nil {
		return nil, rpc.TransportError(err, "the bus")
	}
	// The server refuses too, but silently: a request would wait for its deadline.
	switch d := p.r.table.Call(id, to, op); d {
	case gate.Allowed:
	case gate.NotGranted:
		return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "%s may not call %s of %s", p.service, op, service).
			With("object", "svc:"+service).With("verb", "call:"+op).
			Next("add \"svc:%s=call:%s\" to grants in the manifest of %s and update it (`solo update`)", service, op, p.service)
	case gate.NoLease:
		return nil, fault.Unavailable(0, "the runner has lost touch with the fence and acts no more")
	default:
		return nil, fault.New(codes.PermissionDenied, fault.ReasonHandleRefused,
			"the rights of %s to call out are gone (%s): whoever granted them lost or withdrew them", p.service, d).
			Next("update %s (`solo update`) with a live capability", p.service)
	}
	m := nats.NewMsg(subject.Call(to, op, id))
	m.Data = payload
	if t, ok := ctx.Value(traceKey{}).(string); ok {
		m.Header.Set(rpc.HeaderTraceparent, t)
	}
	ctx, cancel := rpc.WithTimeout(ctx, m)
	defer cancel()
	r, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, rpc.TransportError(err, service)
	}
	if err := rpc.ReplyError(r); err != nil {
		return nil, err
	}
	return r.Data, nil
}
