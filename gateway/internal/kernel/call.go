package kernel

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// A call that reached nobody is sent again while its service should be running: it was not
// delivered, so it is safe. This is what hides the restart of a runner.
const (
	resendFor   = 5 * time.Second
	resendFirst = 5 * time.Millisecond
	resendMost  = 200 * time.Millisecond
)

// Call sends one message to a service.
func (s *Server) Call(ctx context.Context, req *solov1.CallRequest) (*solov1.CallResponse, error) {
	of, err := service(req.GetService())
	if err != nil {
		return nil, err
	}
	payload := req.GetPayload()
	if t, ok := req.GetBody().(*solov1.CallRequest_Text); ok {
		payload = []byte(t.Text)
	}
	r, err := s.send(ctx, of, req.GetOp(), payload)
	if err != nil {
		return nil, err
	}
	resp := &solov1.CallResponse{Payload: r.Data, Instance: r.Header.Get(rpc.HeaderInstance)}
	resp.Revision, _ = strconv.ParseUint(r.Header.Get(rpc.HeaderRevision), 10, 64) // a service that does not say leaves 0
	if utf8.Valid(r.Data) {
		resp.Text = string(r.Data)
	}
	return resp, nil
}

func (s *Server) send(ctx context.Context, of subject.Service, op string, payload []byte) (*nats.Msg, error) {
	c := from(ctx)
	subj := subject.Call(of, op, c.Peer.ID)
	begin, wait := time.Now(), resendFirst
	for {
		var r *nats.Msg
		err := c.Do(ctx, subj, func(ctx context.Context) error {
			m := nats.NewMsg(subj)
			m.Data = payload
			if tp := traceparent(ctx); tp != "" {
				m.Header.Set(rpc.HeaderTraceparent, tp)
			}
			ctx, cancel := rpc.WithTimeout(ctx, m)
			defer cancel()
			var err error
			r, err = c.Peer.Conn.RequestMsgWithContext(ctx, m)
			return err
		})
		switch {
		case err == nil:
			return r, advise(rpc.ReplyError(r), of)
		case errors.Is(err, nats.ErrNoResponders):
			again, why := s.silence(ctx, c, of)
			if !again || time.Since(begin) > resendFor {
				return nil, why
			}
			if err := pause(ctx, wait); err != nil {
				return nil, why
			}
			wait = min(2*wait, resendMost)
		case ours(err):
			return nil, s.translate(ctx, c, subj, err)
		default:
			return nil, rpc.TransportError(err, of.String())
		}
	}
}

// advise adds what to do next to what a service's instance answered, where it does not say.
func advise(err error, of subject.Service) error {
	f, ok := errors.AsType[*fault.Error](err)
	switch {
	case !ok || f.Help != "":
	case f.Reason == fault.ReasonInstanceCrashed:
		f.Next("`solo crash %s` shows why", of)
	case f.Reason == fault.ReasonDeadlineExceeded:
		f.Next("give the operation more with operations[].timeout in the manifest of %s, which is 30s where it says nothing", of)
	}
	return err
}

// ours tells whether an error is the pool's own, which translate knows.
func ours(err error) bool {
	_, refused := errors.AsType[*holder.RefusedError](err)
	return refused || errors.Is(err, holder.ErrLost) || errors.Is(err, holder.ErrClosing)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// silence says why nobody answers for a service, and whether somebody soon will.
func (s *Server) silence(ctx context.Context, c *holder.Conn, of subject.Service) (again bool, why error) {
	resp := &kernelv1.ResolveResponse{}
	if err := s.ask(ctx, subject.Registry, "resolve", of, &kernelv1.ResolveRequest{Service: of.String()}, resp); err != nil {
		return fault.From(err).Code == codes.Unavailable, err
	}
	if !resp.GetExists() {
		return false, fault.New(codes.NotFound, fault.ReasonServiceNotFound, "there is no service %s", of).
			With("object", "svc:"+of.String()).Next("`solo ps` lists the services that you may list")
	}
	state := strings.TrimPrefix(resp.GetState().String(), "SERVICE_STATE_")
	text := ""
	if e := resp.GetLastError(); e != "" {
		text = ": " + e
	}
	switch resp.GetState() {
	case solov1.ServiceState_SERVICE_STATE_STOPPED, solov1.ServiceState_SERVICE_STATE_FAILED:
		return false, fault.New(codes.FailedPrecondition, fault.ReasonServiceNotRunning, "%s is %s%s", of, state, text).
			With("object", "svc:"+of.String()).With("state", state).Next("`solo status %s` says more, `solo deploy` starts it", of)
	}
	return true, fault.New(codes.Unavailable, fault.ReasonServiceNotRunning, "%s is %s and no instance answers at the moment%s", of, state, text).
		With("object", "svc:"+of.String()).With("state", state).Retry(250 * time.Millisecond)
}

// traceparent is the W3C trace context that the client sent, if it has its shape.
func traceparent(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(rpc.HeaderTraceparent)
	if len(v) != 1 || len(v[0]) != 55 {
		return ""
	}
	for i := range len(v[0]) {
		if c := v[0][i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return ""
		}
	}
	return v[0]
}
