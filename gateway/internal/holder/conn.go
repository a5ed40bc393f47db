package holder

import (
	"context"
	"errors"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/rpc"
	"golang.org/x/time/rate"
)

// ErrLost says that the connection ended while something was under way on it.
var ErrLost = errors.New("the bus connection of the handle was cut")

// ErrClosing says that the pool is closing.
var ErrClosing = errors.New("the gateway is stopping")

// RefusedError says that the bus refused to take a message from this holder.
type RefusedError struct {
	// Subject of the message.
	Subject string
}

// Error names the subject, which is no secret.
func (e *RefusedError) Error() string { return "the bus refuses " + e.Subject }

// Conn is a bus connection that speaks as one holder.
type Conn struct {
	Peer rpc.Peer

	key   [32]byte
	limit *rate.Limiter

	// Guarded by the pool's lock.
	refs int
	used time.Time

	mu      sync.Mutex
	waiting map[string]map[*waiter]struct{} // mu; by subject
	ended   error                           // mu; set once
	notes   map[string]any                  // mu
}

type waiter struct{ cancel context.CancelCauseFunc }

func newConn(key [32]byte, limit *rate.Limiter) *Conn {
	return &Conn{key: key, limit: limit, waiting: map[string]map[*waiter]struct{}{}, notes: map[string]any{}}
}

// Do runs f, which sends on subject and waits. f's context ends at once when the bus refuses
// the subject, and Do then returns a *RefusedError; or when the connection is lost, and Do
// then returns ErrLost or ErrClosing. An f that succeeded nevertheless has succeeded.
func (c *Conn) Do(ctx context.Context, subject string, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &waiter{cancel}
	c.mu.Lock()
	if c.ended != nil {
		defer c.mu.Unlock()
		return c.ended
	}
	set := c.waiting[subject]
	if set == nil {
		set = map[*waiter]struct{}{}
		c.waiting[subject] = set
	}
	set[w] = struct{}{}
	c.mu.Unlock()

	err := f(ctx)

	c.mu.Lock()
	delete(set, w)
	if len(set) == 0 {
		delete(c.waiting, subject)
	}
	c.mu.Unlock()
	if err == nil {
		return nil
	}
	if _, refused := errors.AsType[*RefusedError](context.Cause(ctx)); refused || errors.Is(context.Cause(ctx), ErrLost) || errors.Is(context.Cause(ctx), ErrClosing) {
		return context.Cause(ctx)
	}
	if c.Peer.Conn.IsClosed() {
		return ErrLost
	}
	return err
}

// Allow takes one call from the holder's rate; false means too many.
func (c *Conn) Allow() bool { return c.limit.Allow() }

// Note keeps a value for the life of the connection: what is known of an immutable capability.
func (c *Conn) Note(key string, v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes[key] = v
}

// Noted returns what Note kept, or nil.
func (c *Conn) Noted(key string) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notes[key]
}

// refusal reads the subject out of the server's own words.
var refusal = regexp.MustCompile(`(?i)permissions violation for publish to "([^"]+)"`)

// onError hears the connection's asynchronous errors. The server decides by the capability
// alone, which cannot change, so a refusal is about every message under way on the subject.
func (c *Conn) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	m := refusal.FindStringSubmatch(err.Error())
	if m == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiting[m[1]] {
		w.cancel(&RefusedError{m[1]})
	}
}

// end fails everything under way.
func (c *Conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return
	}
	c.ended = cause
	for _, set := range c.waiting {
		for w := range set {
			w.cancel(cause)
		}
	}
}
