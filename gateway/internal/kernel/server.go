// Package kernel answers solo.v1.SoloKernel by system calls made as the holder who asks. It
// decides nothing: the bus lets a holder send only what its capability allows, and the
// component that answers checks again. What it adds is translation: a refusal by the bus
// becomes a denial that says what is missing, silence becomes UNAVAILABLE or the reason why a
// service does not answer, and large code goes ahead in pieces.
package kernel

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Server is the gateway's SoloKernel. The interceptors put the holder's connection into the
// context of every call before it gets here.
type Server struct {
	solov1.UnimplementedSoloKernelServer
	log *slog.Logger
	// Done when the gateway is told to end: streams end then.
	draining <-chan struct{}
}

var _ solov1.SoloKernelServer = (*Server)(nil)

// New makes a server whose streams end when draining is closed.
func New(log *slog.Logger, draining <-chan struct{}) *Server {
	return &Server{log: log, draining: draining}
}

type contextKey struct{}

// With gives a call the connection it is made on.
func With(ctx context.Context, c *holder.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

func from(ctx context.Context) *holder.Conn { return ctx.Value(contextKey{}).(*holder.Conn) }

// Patience is how long a mutation that names no deadline may take.
const Patience = 5 * time.Minute

// patient gives ctx a deadline, unless it has one.
func patient(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// ask makes a system call as the holder and explains a refusal.
func (s *Server) ask(ctx context.Context, component, op string, of subject.Service, req, resp proto.Message) error {
	c := from(ctx)
	subj := subject.Sys(component, op, of, c.Peer.ID)
	err := c.Do(ctx, subj, func(ctx context.Context) error { return c.Peer.Call(ctx, component, op, of, req, resp) })
	return s.translate(ctx, c, subj, err)
}

// translate turns what went wrong with a message on a subject into the fault that the holder gets.
func (s *Server) translate(ctx context.Context, c *holder.Conn, subj string, err error) error {
	switch r, refused := errors.AsType[*holder.RefusedError](err); {
	case err == nil:
		return nil
	case refused:
		return s.denial(ctx, c, r.Subject)
	case errors.Is(err, holder.ErrLost):
		return lost(ctx)
	case errors.Is(err, holder.ErrClosing):
		return Stopping()
	case fault.Is(err, fault.ReasonNotGranted) && fault.From(err).Metadata["decision"] != "" && fault.From(err).Metadata["smallest_grant"] == "":
		// A gate said no where the bus had let the message pass. What a component refuses for a
		// reason of its own it explains itself.
		return s.denial(ctx, c, subj)
	}
	return err
}

// Refused is the one answer for handles that are unknown, revoked or expired.
func Refused() error {
	return fault.New(codes.Unauthenticated, fault.ReasonHandleRefused, "the handle is not valid (unknown, revoked or expired)").
		Next("ask whoever granted it for a new one")
}

// Stopping is the answer of a gateway that has been told to end.
func Stopping() error {
	return fault.New(codes.Unavailable, fault.ReasonShuttingDown, "the gateway is stopping").Retry(time.Second)
}

type redialKey struct{}

// Redial gives a call the means to find out why its connection was cut: f connects again.
func Redial(ctx context.Context, f func(context.Context) error) context.Context {
	return context.WithValue(ctx, redialKey{}, f)
}

// lost tells a revoked handle from a lost bus by asking the bus again.
func lost(ctx context.Context) error {
	f, ok := ctx.Value(redialKey{}).(func(context.Context) error)
	if !ok {
		return Refused()
	}
	switch err := f(ctx); {
	case errors.Is(err, holder.ErrRefused):
		return Refused()
	case err != nil:
		return fault.Unavailable(time.Second, "the bus cannot be reached; what was asked may have been done").Because(err)
	}
	return fault.Unavailable(0, "the connection to the bus was lost; what was asked may have been done")
}

// service reads the field `service` of a request.
func service(name string) (subject.Service, error) {
	s, err := subject.ParseService(name)
	if err != nil {
		return s, fault.Invalid("service", "%v", err)
	}
	return s, nil
}

// pattern reads a field that also takes `namespace/*` and `*/*`, which are subject.None.
func pattern(name string) (subject.Service, error) {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns != "*" && !subject.ValidName(ns) || n != "*" && !subject.ValidName(n) {
		return subject.Service{}, fault.Invalid("service", "%q is no service: want namespace/name, namespace/* or */*", name)
	}
	if ns == "*" {
		ns = subject.None
	}
	if n == "*" {
		n = subject.None
	}
	return subject.Service{Namespace: ns, Name: n}, nil
}

// peerCall is a system call whose refusal is not explained: it is part of an explanation.
func peerCall(ctx context.Context, c *holder.Conn, component, op string, of subject.Service, req, resp proto.Message) error {
	return c.Do(ctx, subject.Sys(component, op, of, c.Peer.ID), func(ctx context.Context) error {
		return c.Peer.Call(ctx, component, op, of, req, resp)
	})
}
