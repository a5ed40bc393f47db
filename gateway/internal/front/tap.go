package front

import (
	"context"
	"errors"
	"time"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/gateway/internal/kernel"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
)

// maxOpen bounds the calls under way that need no handle: health and reflection.
const maxOpen = 64

// Tap decides by a call's headers alone whether its message is taken in at all: a message is up to
// 6 MiB of memory, which only a live handle may ask for. The bus decides again when the call is made.
// It is called on the connection's own reader, so it never waits.
func (f *Front) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if method(info.FullMethodName) == "" {
		select {
		case f.open <- struct{}{}:
			context.AfterFunc(ctx, func() { <-f.open })
			return ctx, nil
		default:
			return ctx, fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many calls of health and reflection are under way").Retry(time.Second)
		}
	}
	seed, err := bearer(info.Header)
	if err != nil {
		return ctx, err
	}
	if err := f.pool.Screen(seed, address(ctx)); err != nil {
		if errors.Is(err, holder.ErrTooManyRefusals) {
			return ctx, f.refusal(err)
		}
		return ctx, kernel.Refused()
	}
	f.arrived(ctx)
	return ctx, nil
}

// arrived tells the listener that a live handle came over a connection.
func (f *Front) arrived(ctx context.Context) {
	if p, ok := peer.FromContext(ctx); ok {
		f.conns.Prove(p.Addr)
	}
}

func address(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// bearer reads the handle that a call presents.
func bearer(md metadata.MD) (string, error) {
	values := md.Get("authorization")
	if len(values) != 1 && (len(values) == 0 || check.On(check.OneHandle)) {
		return "", fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "no handle came with the call: send metadata `authorization: Bearer SU...` once")
	}
	seed, ok := bearerToken(values[0])
	if !ok {
		return "", fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "what came is no handle: want metadata `authorization: Bearer SU...`, a user seed of 58 characters")
	}
	return seed, nil
}
