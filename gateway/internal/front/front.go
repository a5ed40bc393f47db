// Package front is the gRPC side of the gateway: who asks, whether the request keeps the rules
// of the contract, how often and how long, and what is counted. Every call of SoloKernel is
// authenticated before its message is looked at, and reaches the handler with the holder's
// bus connection. A handle is never logged, counted, or put into an error.
package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/gateway/internal/kernel"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Front authenticates, validates, bounds and counts.
type Front struct {
	pool     *holder.Pool
	log      *slog.Logger
	check    protovalidate.Validator
	duration *prometheus.HistogramVec
}

// New makes a front and registers its metrics.
func New(pool *holder.Pool, log *slog.Logger, metrics prometheus.Registerer) (*Front, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	f := &Front{pool: pool, log: log, check: v, duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "solo_grpc_request_duration_ms",
		Help:    "Time from the arrival of a gRPC request to its answer, in milliseconds; for streams, to their end.",
		Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000},
	}, []string{"method", "code"})}
	if err := metrics.Register(f.duration); err != nil {
		return nil, err
	}
	return f, metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "solo_gateway_holder_connections",
		Help: "Bus connections kept, one for each handle in use.",
	}, func() float64 { return float64(pool.Len()) }))
}

// method is the name of a SoloKernel method, empty for other services.
func method(full string) string {
	m, ok := strings.CutPrefix(full, "/"+solov1.SoloKernel_ServiceDesc.ServiceName+"/")
	if !ok {
		return ""
	}
	return m
}

// Unary is the interceptor of plain calls.
func (f *Front) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	m := method(info.FullMethod)
	if m == "" {
		return next(ctx, req)
	}
	err = f.around(ctx, m, func(ctx context.Context) error {
		if err := f.validate(req); err != nil {
			return err
		}
		resp, err = next(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Stream is the interceptor of streams.
func (f *Front) Stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	m := method(info.FullMethod)
	if m == "" {
		return next(srv, s)
	}
	return f.around(s.Context(), m, func(ctx context.Context) error {
		return next(srv, &checkedStream{s, ctx, f})
	})
}

// checkedStream validates what comes in.
type checkedStream struct {
	grpc.ServerStream
	ctx context.Context
	f   *Front
}

// Context carries the holder's connection.
func (s *checkedStream) Context() context.Context { return s.ctx }

// RecvMsg receives and validates.
func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.f.validate(m)
}

func (f *Front) validate(m any) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return fault.Internal(fmt.Errorf("%T is no message", m), "the request cannot be read")
	}
	return rpc.Validate(f.check, pm)
}

// around does one call: authenticated, bounded, guarded against panics, counted.
func (f *Front) around(ctx context.Context, m string, do func(context.Context) error) (err error) {
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("panic in a call", "method", m, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fault.Internal(nil, "the gateway failed inside; its log has the cause")
		}
		err = f.wire(ctx, m, err)
		f.duration.WithLabelValues(m, status.Code(err).String()).Observe(float64(time.Since(begin).Nanoseconds()) / 1e6)
	}()
	c, redial, release, err := f.authenticate(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !c.Allow() {
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many calls a second with this handle").Retry(100*time.Millisecond).With("object", c.Peer.ID)
	}
	return do(kernel.Redial(kernel.With(ctx, c), redial))
}

// wire makes sure that what leaves is a fault, and logs what only the log may know.
func (f *Front) wire(ctx context.Context, m string, err error) error {
	if err == nil {
		return nil
	}
	if _, isFault := errors.AsType[*fault.Error](err); !isFault {
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "no answer came before the deadline").Because(err)
		case errors.Is(err, context.Canceled), ctx.Err() != nil:
			return fault.New(codes.Canceled, fault.ReasonUnavailable, "the call was cancelled").Because(err)
		}
	}
	e := fault.From(err)
	if e.Code == codes.Internal {
		f.log.Error("a call failed inside", "method", m, "error", err, "cause", e.Unwrap())
	}
	return e
}

// authenticate finds the connection of the handle that a call presents.
func (f *Front) authenticate(ctx context.Context) (*holder.Conn, func(context.Context) error, func(), error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 && (len(values) == 0 || check.On(check.OneHandle)) {
		return nil, nil, nil, fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "no handle came with the call: send metadata `authorization: Bearer SU...` once")
	}
	scheme, seed, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || !handleShape(seed) {
		return nil, nil, nil, fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "what came is no handle: want metadata `authorization: Bearer SU...`, a user seed of 58 characters")
	}
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	c, release, err := f.pool.Get(ctx, seed, from)
	if err != nil {
		return nil, nil, nil, f.refusal(err)
	}
	redial := func(ctx context.Context) error {
		_, release, err := f.pool.Get(ctx, seed, from)
		if err == nil {
			release()
		}
		return err
	}
	return c, redial, release, nil
}

// handleShape tells whether s is a user seed. The check sum of a seed catches typing errors
// before a connection is tried.
func handleShape(s string) bool {
	if len(s) != 58 || !strings.HasPrefix(s, "SU") {
		return false
	}
	kp, err := nkeys.FromSeed([]byte(s))
	if err != nil {
		return false
	}
	kp.Wipe()
	return true
}

func (f *Front) refusal(err error) error {
	switch {
	case errors.Is(err, holder.ErrRefused):
		return kernel.Refused()
	case errors.Is(err, holder.ErrClosing):
		return kernel.Stopping()
	case errors.Is(err, holder.ErrBusy):
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many calls of this handle are under way").Retry(100 * time.Millisecond)
	case errors.Is(err, holder.ErrFull):
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many handles are in use at this gateway").Retry(time.Second)
	case errors.Is(err, holder.ErrTooManyRefusals):
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many refused handles came from your address").Retry(time.Second)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	f.log.Warn("the bus cannot be reached for a holder", "error", err)
	return fault.Unavailable(time.Second, "the bus cannot be reached").Because(err)
}
