// Package door is the kernel's own listener in front of the bus. It takes every connection,
// reads its stream frame by frame, holds it to Limits that the server cannot hold, and passes
// it on to the server inside the process.
//
// There are two listeners: TCP for everybody, and a Unix socket for Solo's own processes, each
// with places of its own, so that no flood of the one takes places of the other.
//
// Delivery and order are the server's: a connection's bytes are passed on as they came, in
// both directions, or the connection ends. Nothing is kept in the door beyond one buffer of at
// most 64 KiB for each direction: who sends more than a limit is read later, who does not read
// is cut off after Limits.WriteTime. A call beyond a limit is answered in the server's place,
// between two frames, and not passed on.
//
// Lock order: Door.mu, then holder.mu. bridge.sending, bridge.writing, bridge.mu, inbox.mu and
// places.mu are leaves: nothing else is taken while one of them is held.
package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What a Refusal is of.
const (
	// RefusedSockets: no place for another socket.
	RefusedSockets = "sockets"
	// RefusedStranger: a socket that had not authenticated, in time or before its place was needed.
	RefusedStranger = "unauthenticated"
	// RefusedConnections: the holder has too many connections.
	RefusedConnections = "connections"
	// RefusedBytes, RefusedMessages, RefusedInterest and RefusedViolations: the holder is read later.
	RefusedBytes      = "bytes"
	RefusedMessages   = "messages"
	RefusedInterest   = "subscriptions"
	RefusedViolations = "violations"
	// RefusedCalls: too many calls wait for their answer. RefusedAdmit: Options.Admit said no.
	RefusedCalls = "calls"
	RefusedAdmit = "admit"
	// RefusedProtocol: the client does not speak the protocol, or not at its turn.
	RefusedProtocol = "protocol"
	// RefusedSlow: the client does not read.
	RefusedSlow = "slow"
)

// Refusal is something that the door did not let pass.
type Refusal struct {
	// Address of the client; `@` on the Unix socket.
	Address string
	// Holder is empty before authentication.
	Holder string
	// What is one of the Refused constants.
	What string
	// Count is how many there were.
	Count int
}

// Options of a Door.
type Options struct {
	// Limits; where it is the zero value, DefaultLimits.
	Limits Limits
	// Own tells whether a key is that of a process of Solo's own. Nil: none is.
	Own func(id string) bool
	// Serves tells whether a key answers the calls to a service: how much it sends and gets is
	// then up to its callers. Nil: none does.
	Serves func(id string) bool
	// Admit is asked for every call to a service, with its subject, which is good until Admit
	// returns; an error is the call's answer. It must be quick. Nil: all pass.
	Admit func(id string, subject []byte) error
	// Refused hears of what does not pass, on the connection's own goroutine: it must be quick
	// and must not block. Nil: nobody does.
	Refused func(Refusal)
}

// Door is open from Open to Close. Its methods are safe for concurrent use.
type Door struct {
	o       Options
	l       Limits
	server  func() (net.Conn, error)
	full    answer // to a call beyond Limits.Calls
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	tcp     listener
	unix    *listener
	calls   atomic.Int64 // of all holders, that wait for their answer
	leaving atomic.Int32 // sockets that are being told that there is no place

	mu      sync.Mutex
	bridges map[uint64]*bridge // mu; by the server's number of the connection
	holders map[string]*holder // mu
}

// listener is a socket that takes connections, and its places.
type listener struct {
	net.Listener
	places *places
}

// sweepEvery is how often calls that were never answered and holders that are gone are forgotten.
const sweepEvery = 2 * time.Second

// maxPath is how long the path of a Unix socket may be, in bytes.
const maxPath = 104

// Listen takes the addresses. socket is the path of the Unix socket; empty is none, and what
// lies there from before is removed. server makes a connection to the server. Nobody is served
// before Open.
func Listen(addr, socket string, server func() (net.Conn, error), o Options) (*Door, error) {
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits()
	}
	if o.Own == nil {
		o.Own = func(string) bool { return false }
	}
	if o.Serves == nil {
		o.Serves = func(string) bool { return false }
	}
	if o.Refused == nil {
		o.Refused = func(Refusal) {}
	}
	d := &Door{o: o, l: o.Limits, server: server, full: newAnswer(errFull(o.Limits)), bridges: map[uint64]*bridge{}, holders: map[string]*holder{}}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	d.tcp = listener{l, newPlaces(within(d.l.TCP))}
	if socket != "" {
		u, err := listenUnix(socket)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		d.unix = &listener{u, newPlaces(d.l.Unix)}
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d, nil
}

// within cuts the places of TCP down to half of the files that the process may open: the rest
// is for components and for the store.
func within(p Places) Places {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil || p.Sockets == 0 {
		return p
	}
	p.Sockets = int(min(uint64(p.Sockets), max(r.Cur/2, 1)))
	return p
}

func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path of the Unix socket %s has %d bytes, at most %d are possible: choose a shorter SOLO_HOME", path, len(path), maxPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	u, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

// Open begins to serve.
func (d *Door) Open() {
	d.wg.Go(func() { d.accept(&d.tcp) })
	if d.unix != nil {
		d.wg.Go(func() { d.accept(d.unix) })
	}
	d.wg.Go(d.sweep)
}

// Addr is host:port of the TCP listener.
func (d *Door) Addr() string { return d.tcp.Addr().String() }

// Shut takes no more connections.
func (d *Door) Shut() {
	d.stop()
	_ = d.tcp.Close() // it may be closed already
	if d.unix != nil {
		_ = d.unix.Close()
	}
}

// Close ends every connection and returns when nothing of the door runs any more.
func (d *Door) Close() {
	d.Shut()
	for _, p := range d.places() {
		for _, b := range p.all() {
			b.close()
		}
	}
	d.wg.Wait()
}

func (d *Door) places() []*places {
	if d.unix == nil {
		return []*places{d.tcp.places}
	}
	return []*places{d.tcp.places, d.unix.places}
}

// Counts tells how many sockets there are and how many of them have not authenticated.
func (d *Door) Counts() (sockets, strangers int) {
	for _, p := range d.places() {
		s, u := p.counts()
		sockets += s
		strangers += u
	}
	return sockets, strangers
}

// Calls is how many calls of holders wait for their answer.
func (d *Door) Calls() int { return int(d.calls.Load()) }

// acceptAgain is how long to wait after an accept that failed, for files to become free.
const acceptAgain = 20 * time.Millisecond

func (d *Door) accept(l *listener) {
	for {
		c, err := l.Accept()
		if d.ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			d.o.Refused(Refusal{What: RefusedSockets, Count: 1})
			select {
			case <-d.ctx.Done():
				return
			case <-time.After(acceptAgain):
			}
			continue
		}
		b := newBridge(d, l.places, c)
		oldest, ok := l.places.take(b)
		if !ok {
			d.refused(b, RefusedSockets)
			d.wg.Go(b.turnAway)
			continue
		}
		if oldest != nil {
			d.refused(oldest, RefusedStranger)
			oldest.close()
		}
		d.wg.Go(b.run)
	}
}

func (d *Door) refused(b *bridge, what string) {
	r := Refusal{Address: b.address, What: what, Count: 1}
	if h := b.holder.Load(); h != nil {
		r.Holder = h.id
	}
	d.o.Refused(r)
}

// Authenticated is told by the server that a connection has proved a key, before the server
// takes anything else from it. It returns false where the holder has too many.
func (d *Door) Authenticated(cid uint64, id string) bool {
	own, serves := d.o.Own(id), d.o.Serves(id)
	d.mu.Lock()
	b := d.bridges[cid]
	h := d.holders[id]
	if h == nil {
		h = newHolder(id, own, serves, d.l, time.Now())
		d.holders[id] = h
	}
	h.mu.Lock()
	ok := b != nil && (own || d.l.Connections == 0 || h.conns < d.l.Connections)
	if ok {
		h.conns++
		b.holder.Store(h) // under mu, so that forget finds it
	}
	h.mu.Unlock()
	d.mu.Unlock()
	switch {
	case ok:
		b.welcome()
	case b != nil:
		d.o.Refused(Refusal{Address: b.address, Holder: id, What: RefusedConnections, Count: 1})
		b.fail(fmt.Sprintf("maximum connections exceeded: this holder has %d open", d.l.Connections))
	}
	return ok
}

// Stop passes nothing more of a connection on to the server: when it returns, the server reads
// nothing from it any more. What the server has written still goes to the client.
func (d *Door) Stop(cid uint64) {
	d.mu.Lock()
	b := d.bridges[cid]
	d.mu.Unlock()
	if b != nil {
		b.mute()
	}
}

// register names a bridge by the server's number.
func (d *Door) register(cid uint64, b *bridge) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bridges[cid] = b
}

// forget takes a bridge that has ended out of everything.
func (d *Door) forget(cid uint64, b *bridge) {
	d.mu.Lock()
	delete(d.bridges, cid)
	h := b.holder.Load()
	d.mu.Unlock()
	if h == nil {
		return
	}
	d.release(h, b.inbox.clear())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns--
	h.left = time.Now()
}

// release gives the places of calls back.
func (d *Door) release(h *holder, calls int) {
	if calls > 0 {
		h.calls.Add(int64(-calls))
		d.calls.Add(int64(-calls))
	}
}

// sweep forgets what nobody asks for any more.
func (d *Door) sweep() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case now := <-t.C:
			for _, p := range d.places() {
				for _, b := range p.all() {
					if h := b.holder.Load(); h != nil {
						d.release(h, b.inbox.expire(now))
					}
				}
			}
			d.sweepHolders(now)
		}
	}
}

// keepHolder is how long a holder's buckets outlive its last connection: connecting again is
// no way to fill them.
const keepHolder = 30 * time.Second

func (d *Door) sweepHolders(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, h := range d.holders {
		h.mu.Lock()
		if h.conns == 0 && now.Sub(h.left) > keepHolder {
			delete(d.holders, id)
		}
		h.mu.Unlock()
	}
}
