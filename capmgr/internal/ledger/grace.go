package ledger

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
)

// grace is how long a group that has begun may go on after the process was told to end.
const grace = 5 * time.Second

// graceful returns a context that ends a while after ctx does.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-out.Done():
		case <-t.C:
			cancel()
		}
	})
	return out, func() { stop(); cancel() }
}

func codeOf(err error) codes.Code {
	if errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	return codes.DeadlineExceeded
}
