package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// readyWait is how long a call waits where nobody listens: a gateway is restarted within it.
const readyWait = 3 * time.Second

// redialing is how often a refused address is tried again.
func redialing() backoff.Config {
	return backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
}

// dialer connects, and knows why the last attempt failed. Nothing has been sent on a connection
// that was not made, so waiting for one is safe where repeating a call is not.
type dialer struct {
	addr string
	conn *grpc.ClientConn

	mu   sync.Mutex
	last error // mu; nil after a success
}

func (d *dialer) connect(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = err
	return c, err
}

func (d *dialer) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// ready returns when a call can be sent, or when waiting is of no use: then the call itself
// says why. It waits for nothing but a refused connection.
func (d *dialer) ready(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		s := d.conn.GetState()
		switch s {
		case connectivity.Ready, connectivity.Shutdown:
			return nil
		case connectivity.Idle:
			d.conn.Connect()
		case connectivity.TransientFailure:
			if err := d.failed(); err == nil {
				return nil
			} else if !errors.Is(err, syscall.ECONNREFUSED) || wait.Err() != nil {
				return fault.Unavailable(time.Second, "%s cannot be reached: %v", d.addr, err).Because(err)
			}
		}
		if d.conn.WaitForStateChange(wait, s) {
			continue
		}
		if err := d.failed(); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			return fault.Unavailable(time.Second, "nobody listens at %s", d.addr).Because(err)
		}
		return nil
	}
}

// failure is the fault for a call that failed. A deadline that comes without Solo's details is
// the caller's own, whichever side saw it end first, and says so.
func failure(ctx context.Context, err error) error {
	st := status.Convert(err)
	if len(st.Details()) == 0 && (st.Code() == codes.DeadlineExceeded || errors.Is(ctx.Err(), context.DeadlineExceeded)) {
		return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "no answer came within the time that the caller gave").Because(err)
	}
	return fault.From(err)
}
