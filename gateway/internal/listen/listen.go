// Package listen bounds the connections of clients that have shown no live handle: how many there are,
// and for how long. A connection over which a live handle has come stays for as long as its client
// likes, up to the bound on all. When there are too many, the one that has shown nothing for longest
// makes room; what has proven itself is never closed for a newcomer.
package listen

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// Options of a Listener; zero values are the defaults.
type Options struct {
	// Unproven bounds the connections without a live handle; default 512.
	Unproven int
	// All bounds the connections; default 8192.
	All int
	// Patience is how long a connection may be unproven; default 10 s.
	Patience time.Duration
}

// Listener is a net.Listener. Its methods are safe for concurrent use.
type Listener struct {
	net.Listener
	o Options

	mu    sync.Mutex
	conns map[string]*conn // mu; by remote address
	fresh *list.List       // mu; unproven ones, oldest first
}

type conn struct {
	net.Conn
	l    *Listener
	key  string
	at   *list.Element // l.mu; nil once proven or closed
	end  *time.Timer
	once sync.Once
}

// New bounds l.
func New(l net.Listener, o Options) *Listener {
	if o.Unproven == 0 {
		o.Unproven = 512
	}
	if o.All == 0 {
		o.All = 8192
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	return &Listener{Listener: l, o: o, conns: map[string]*conn{}, fresh: list.New()}
}

// Listen announces addr and bounds what connects.
func Listen(ctx context.Context, addr string, o Options) (*Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return New(l, o), nil
}

// Accept waits for the next connection. One for which there is no room is closed at once.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(nc); c != nil {
			return c, nil
		}
		_ = nc.Close() // nothing was said yet
	}
}

func (l *Listener) admit(nc net.Conn) net.Conn {
	c := &conn{Conn: nc, l: l, key: nc.RemoteAddr().String()}
	l.mu.Lock()
	var oldest *conn
	if l.fresh.Len() >= l.o.Unproven || len(l.conns) >= l.o.All {
		e := l.fresh.Front()
		if e == nil {
			l.mu.Unlock()
			return nil
		}
		oldest = e.Value.(*conn)
	}
	c.at = l.fresh.PushBack(c)
	l.conns[c.key] = c
	c.end = time.AfterFunc(l.o.Patience, func() {
		if l.unproven(c) {
			_ = c.Close() // it may have closed itself
		}
	})
	l.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // as above
	}
	return c
}

func (l *Listener) unproven(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.at != nil
}

// Prove notes that a live handle has come from a connection.
func (l *Listener) Prove(remote net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[remote.String()]; c != nil && c.at != nil {
		l.fresh.Remove(c.at)
		c.at = nil
		c.end.Stop()
	}
}

// Counts tells how many connections there are, and how many of them have shown no live handle.
func (l *Listener) Counts() (all, unproven int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns), l.fresh.Len()
}

// Close ends the connection and forgets it.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		c.end.Stop()
		if c.at != nil {
			c.l.fresh.Remove(c.at)
			c.at = nil
		}
		if c.l.conns[c.key] == c {
			delete(c.l.conns, c.key)
		}
	})
	return c.Conn.Close()
}
