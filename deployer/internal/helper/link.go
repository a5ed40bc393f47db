package helper

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/solo-os/solo/bus/conn"
)

// Link is a connection to the bus that is kept for as long as the link lives, whatever happens to the
// bus, and can be moved to another address. It is safe for concurrent use.
type Link struct {
	opts conn.Options
	up   func(context.Context, *nats.Conn, string) error
	log  *slog.Logger
	stop context.CancelFunc
	done chan struct{}
	move chan struct{} // woken when the address has changed

	mu    sync.Mutex // guards what follows
	addr  string
	nc    *nats.Conn
	id    string
	ready chan struct{} // closed while nc is set
	err   error         // of the last try
}

// NewLink begins to connect. up makes each new connection useful, with subscriptions for example; a
// connection is not shown before up has returned nil, and is tried again after an error. Reconnecting
// to the same address is the connection's own work and calls opts.Found.
func NewLink(opts conn.Options, log *slog.Logger, up func(context.Context, *nats.Conn, string) error) *Link {
	ctx, stop := context.WithCancel(context.Background())
	opts.Reconnect = true
	l := &Link{
		opts: opts, up: up, log: log, stop: stop, addr: opts.Addr,
		done: make(chan struct{}), move: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	go l.run(ctx)
	return l
}

// Conn returns the connection and its id, or nil while there is none.
func (l *Link) Conn() (*nats.Conn, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nc, l.id
}

// Wait returns the connection once there is one, or the reason why there is none when ctx ends.
func (l *Link) Wait(ctx context.Context) (*nats.Conn, string, error) {
	for {
		l.mu.Lock()
		nc, id, ready, err := l.nc, l.id, l.ready, l.err
		l.mu.Unlock()
		if nc != nil {
			return nc, id, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return nil, "", err
		}
	}
}

// Move leads the link to another address. The same address changes nothing.
func (l *Link) Move(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if addr == "" || addr == l.addr {
		return
	}
	l.addr = addr
	select {
	case l.move <- struct{}{}:
	default:
	}
}

// Close ends the link and its connection, after what was published has been sent.
func (l *Link) Close() {
	l.stop()
	<-l.done
}

func (l *Link) run(ctx context.Context) {
	defer close(l.done)
	wait := 20 * time.Millisecond
	for ctx.Err() == nil {
		nc, err := l.connect(ctx)
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			l.log.Warn("no connection to the bus yet", "link", l.opts.Name, "error", err)
			pause(ctx, wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 20 * time.Millisecond
		select {
		case <-ctx.Done():
		case <-l.move:
		}
		l.mu.Lock()
		l.nc, l.ready = nil, make(chan struct{})
		l.mu.Unlock()
		flush, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_ = nc.FlushWithContext(flush) // what cannot be sent now never will be
		cancel()
		nc.Close()
	}
}

func (l *Link) connect(ctx context.Context) (*nats.Conn, error) {
	o := l.opts
	l.mu.Lock()
	o.Addr = l.addr
	l.mu.Unlock()
	dial, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nc, id, err := conn.Dial(dial, o)
	if err != nil {
		return nil, err
	}
	if l.up != nil {
		if err := l.up(dial, nc, id); err != nil {
			nc.Close()
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nc, l.id, l.err = nc, id, nil
	close(l.ready)
	return nc, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
