// Package holder keeps one bus connection for each handle in use, made with that handle: the
// gateway has no authority of its own to lend. The pool is bounded: what is idle goes first,
// the least recently used; nothing with a call under way is taken away. A connection that the
// bus cuts leaves the pool before anything else happens. A handle stays inside the connection
// that signs with it, and the pool knows it by its digest only.
//
// Lock order: Pool.mu, then Conn.mu.
package holder

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/conn"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Errors of Get, besides those of the network.
var (
	// ErrRefused: the handle is unknown, revoked or expired, or no handle.
	ErrRefused = errors.New("the bus refuses the handle")
	// ErrFull: every kept connection has calls under way.
	ErrFull = errors.New("too many handles in use at once")
	// ErrBusy: this holder has too many calls under way.
	ErrBusy = errors.New("too many calls of this handle under way")
	// ErrTooManyRefusals: the peer has presented too many refused handles lately.
	ErrTooManyRefusals = errors.New("too many refused handles from this address")
)

const (
	dialTimeout = 5 * time.Second
	// maxDials bounds connection attempts at once, so that a flood of handles cannot take the
	// places of all who authenticate.
	maxDials = 64
)

// Options of a Pool; all are needed.
type Options struct {
	// Addr of the bus, host:port.
	Addr string
	// Max connections.
	Max int
	// Idle is how long an unused connection is kept.
	Idle time.Duration
	// Rate is calls a second of one holder, Concurrency its calls under way.
	Rate        float64
	Concurrency int
	// Live tells of a public key whether its capability lives, as far as this process knows.
	Live func(id string) bool
	// RefusalRate is how many refused handles a second one peer may present.
	RefusalRate float64
	// Refused hears of handles that came to nothing without the bus being asked, which would know of
	// them otherwise: of which key, from where, and slowed where too many came from there. The id is empty
	// where the key was not looked at. It must not block. May be nil.
	Refused func(id, place string, slowed bool)
}

// Pool of connections by handle.
type Pool struct {
	o      Options
	flight singleflight.Group
	dials  chan struct{}
	peers  *peers
	run    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	entries map[[32]byte]*list.Element // mu; of *Conn
	order   *list.List                 // mu; most recently used first
	closed  bool                       // mu
}

// NewPool makes a pool; Close it.
func NewPool(o Options) *Pool {
	p := &Pool{o: o, dials: make(chan struct{}, maxDials), peers: newPeers(o.RefusalRate), entries: map[[32]byte]*list.Element{}, order: list.New()}
	p.run, p.stop = context.WithCancel(context.Background())
	p.wg.Go(p.sweep)
	return p
}

// Get returns the holder's connection, made now if need be. Call release when done with it.
func (p *Pool) Get(ctx context.Context, seed, peer string) (c *Conn, release func(), err error) {
	key := sha256.Sum256([]byte(seed))
	if !check.On(check.HolderKey) {
		key = [32]byte{}
	}
	// A connection can be cut between being made and being taken; a handle that is cut again
	// and again is being refused.
	for range 3 {
		if c, err = p.take(key); c != nil || err != nil {
			break
		}
		if err = p.dial(ctx, key, seed, peer); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if c == nil {
		return nil, nil, ErrRefused
	}
	return c, sync.OnceFunc(func() { p.give(c) }), nil
}

// Screen decides from what this process knows whether a handle is worth a connection: it has one, or its
// capability lives. It never waits.
func (p *Pool) Screen(seed, peer string) error {
	p.mu.Lock()
	e := p.entries[sha256.Sum256([]byte(seed))]
	p.mu.Unlock()
	if e != nil {
		return nil
	}
	if !p.peers.may(peer) {
		p.refused("", peer, true)
		return ErrTooManyRefusals
	}
	if id, err := conn.ID(seed); err != nil || !p.o.Live(id) {
		p.peers.refused(peer)
		p.refused(id, peer, false)
		return ErrRefused
	}
	return nil
}

func (p *Pool) refused(id, peer string, slowed bool) {
	if p.o.Refused != nil {
		p.o.Refused(id, place(peer), slowed)
	}
}

// Len is how many connections are kept.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.order.Len()
}

// Close ends all connections and what is under way on them.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var all []*Conn
	for e := p.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*Conn))
	}
	p.order.Init()
	clear(p.entries)
	p.mu.Unlock()
	p.stop()
	for _, c := range all {
		c.end(ErrClosing)
		c.Peer.Conn.Close()
	}
	p.wg.Wait()
}

func (p *Pool) take(key [32]byte) (*Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosing
	}
	e := p.entries[key]
	if e == nil {
		return nil, nil
	}
	c := e.Value.(*Conn)
	if c.Peer.Conn.IsClosed() {
		p.remove(e)
		return nil, nil
	}
	if c.refs >= p.o.Concurrency {
		return nil, ErrBusy
	}
	c.refs++
	c.used = time.Now()
	p.order.MoveToFront(e)
	return c, nil
}

func (p *Pool) give(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.refs--
	c.used = time.Now()
}

// remove takes a connection out of the pool. p.mu is held.
func (p *Pool) remove(e *list.Element) {
	p.order.Remove(e)
	delete(p.entries, e.Value.(*Conn).key)
}

// dial connects with a handle, once for all who ask at the same time.
func (p *Pool) dial(ctx context.Context, key [32]byte, seed, peer string) error {
	if !p.peers.may(peer) {
		return ErrTooManyRefusals
	}
	done := p.flight.DoChan(hex.EncodeToString(key[:]), func() (any, error) { return nil, p.connect(key, seed) })
	select {
	case r := <-done:
		if errors.Is(r.Err, ErrRefused) {
			p.peers.refused(peer)
		}
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Pool) connect(key [32]byte, seed string) error {
	ctx, cancel := context.WithTimeout(p.run, dialTimeout)
	defer cancel()
	select {
	case p.dials <- struct{}{}:
		defer func() { <-p.dials }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c := newConn(key, rate.NewLimiter(rate.Limit(p.o.Rate), max(1, int(p.o.Rate/10))))
	nc, id, err := conn.Dial(ctx, conn.Options{
		Addr: p.o.Addr, Seed: seed, Name: "gateway",
		Closed: func(*nats.Conn) { p.lost(c) },
		Error:  c.onError,
	})
	switch {
	case refused(err):
		return ErrRefused
	case err != nil:
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Peer.Conn, c.Peer.ID = nc, id
	if p.closed {
		nc.Close()
		return ErrClosing
	}
	if nc.IsClosed() {
		return nil // cut already: Get tries again
	}
	if p.order.Len() >= p.o.Max && !p.evict() {
		nc.Close()
		return ErrFull
	}
	c.used = time.Now()
	p.entries[key] = p.order.PushFront(c)
	return nil
}

// refused tells whether the bus said no to the handle, and not the network to the bus.
func refused(err error) bool {
	for _, e := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lost drops a connection that the bus cut, then fails what is under way on it.
func (p *Pool) lost(c *Conn) {
	p.mu.Lock()
	if e := p.entries[c.key]; e != nil && e.Value.(*Conn) == c {
		p.remove(e)
	}
	p.mu.Unlock()
	c.end(ErrLost)
}

// evict makes room by closing the least recently used connection that is idle. p.mu is held.
func (p *Pool) evict() bool {
	for e := p.order.Back(); e != nil; e = e.Prev() {
		if c := e.Value.(*Conn); c.refs == 0 {
			p.remove(e)
			c.Peer.Conn.Close()
			return true
		}
	}
	return false
}

// sweep closes what has been idle for too long.
func (p *Pool) sweep() {
	t := time.NewTicker(max(p.o.Idle/4, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.run.Done():
			return
		case now := <-t.C:
			p.mu.Lock()
			for e := p.order.Back(); e != nil; {
				prev := e.Prev()
				if c := e.Value.(*Conn); c.refs == 0 && now.Sub(c.used) > p.o.Idle {
					p.remove(e)
					c.Peer.Conn.Close()
				}
				e = prev
			}
			p.mu.Unlock()
		}
	}
}
