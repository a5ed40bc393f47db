package door

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of control lines, in bytes: the client's is the server's own, the server's are as
// long as a refused subject that is quoted in an error.
const (
	maxClientLine = 4096
	maxServerLine = 48 << 10
	// maxServerPayload is above what the server carries, which has checked it already.
	maxServerPayload = 64 << 20
)

// errorTime is how long the reason of an end may take to reach the client.
const errorTime = 200 * time.Millisecond

// bridge is one connection, led through to the server.
type bridge struct {
	d       *Door
	places  *places
	client  net.Conn
	address string
	began   time.Time
	inbox   *inbox
	holder  atomic.Pointer[holder] // nil until it has authenticated
	known   chan struct{}          // closed when it has
	done    chan struct{}          // closed when it has ended
	end     sync.Once

	mu     sync.Mutex
	server net.Conn // mu; nil until there is one
	muted  bool     // mu; nothing more goes to the server

	sending sync.Mutex // held while writing to the server

	writing sync.Mutex // held while writing to the client
	border  *sync.Cond // writing; woken when within ends
	within  bool       // writing; a message has begun and not ended
	shut    bool       // writing; nothing more goes to the client
}

func newBridge(d *Door, p *places, c net.Conn) *bridge {
	b := &bridge{d: d, places: p, client: c, address: "@", began: time.Now(), inbox: newInbox(), known: make(chan struct{}), done: make(chan struct{})}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		b.address = a.IP.String()
	}
	b.border = sync.NewCond(&b.writing)
	return b
}

// run leads the connection until either side ends it.
func (b *bridge) run() {
	defer b.places.leave(b)
	defer b.close()
	s, err := b.d.server()
	if err != nil {
		b.fail("Server Shutdown")
		return
	}
	defer s.Close()
	if !b.attach(s) {
		return
	}
	out := &outbound{b: b, server: s}
	cid, err := out.hello()
	if err != nil {
		return
	}
	b.d.register(cid, b)
	defer b.d.forget(cid, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer b.close()
		out.run()
	})
	(&inbound{b: b, server: s}).run()
	b.close()
	wg.Wait()
}

// attach takes the connection to the server, and sets the time by which the client must have
// authenticated. It returns false when the bridge has been closed meanwhile.
func (b *bridge) attach(s net.Conn) bool {
	b.mu.Lock()
	b.server = s
	b.mu.Unlock()
	until := b.began.Add(b.d.l.AuthTime)
	_ = b.client.SetReadDeadline(until) // a closed connection says so when it is read
	_ = s.SetWriteDeadline(until)
	select {
	case <-b.done:
		return false
	default:
		return true
	}
}

// welcome lifts the time limit of authentication. It is called on the server's goroutine that
// reads this connection, so it must not wait for whoever writes to the server.
func (b *bridge) welcome() {
	b.places.known(b)
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.known:
		return // it has been before
	default:
	}
	_ = b.client.SetReadDeadline(time.Time{})
	if !b.muted {
		_ = b.server.SetWriteDeadline(time.Time{})
	}
	close(b.known)
}

// mute stops the way to the server and returns when nobody writes there any more.
func (b *bridge) mute() {
	b.mu.Lock()
	b.muted = true
	_ = b.server.SetWriteDeadline(time.Unix(1, 0)) // in the past: a write under way ends too
	b.mu.Unlock()
	b.sending.Lock()
	defer b.sending.Unlock()
}

// close ends both sides, at once.
func (b *bridge) close() {
	b.end.Do(func() {
		close(b.done)
		_ = b.client.Close()
		b.mu.Lock()
		if b.server != nil {
			_ = b.server.Close()
		}
		b.mu.Unlock()
		b.writing.Lock() // whoever writes has been woken by the closed connection
		b.border.Broadcast()
		b.writing.Unlock()
	})
}

// forward writes to the server.
func (b *bridge) forward(s net.Conn, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	b.sending.Lock()
	defer b.sending.Unlock()
	_, err := s.Write(p)
	return err
}

// deliver writes what the server sent to the client; within tells whether it ends inside a message.
func (b *bridge) deliver(p []byte, within bool) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.shut {
		return net.ErrClosed
	}
	err := b.write(p, b.d.l.WriteTime)
	if b.within = within; !within {
		b.border.Signal()
	}
	return err
}

// say puts p between two messages to the client.
func (b *bridge) say(p []byte) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.atBorder() {
		return net.ErrClosed
	}
	return b.write(p, b.d.l.WriteTime)
}

// atBorder waits for the end of the message under way. writing is held.
func (b *bridge) atBorder() bool {
	for b.within && !b.shut && !b.ended() {
		b.border.Wait()
	}
	return !b.shut && !b.ended()
}

func (b *bridge) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// fail tells the client why it is cut off, where that can be done at once, and ends the connection.
func (b *bridge) fail(why string) {
	b.writing.Lock()
	if !b.shut && !b.within {
		_ = b.write([]byte("-ERR '"+why+"'\r\n"), errorTime) // best effort: it ends either way
	}
	b.shut = true
	b.writing.Unlock()
	b.close()
}

// write is with writing held.
func (b *bridge) write(p []byte, limit time.Duration) error {
	if err := b.client.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := b.client.Write(p)
	return err
}

// maxLeaving is how many sockets without a place are told so at a time; others are just closed.
const maxLeaving = 32

// noPlace is what a client needs to hear first so that it reads on, and the reason.
const noPlace = `INFO {"proto":1,"headers":true,"max_payload":1048576,"nonce":"none"}` + "\r\n-ERR 'maximum connections exceeded'\r\n"

// turnAway tells a socket that there is no place, in a way that clients can read: after an
// INFO, and without cutting their own first words off.
func (b *bridge) turnAway() {
	defer b.close()
	if b.d.leaving.Add(1) <= maxLeaving {
		b.writing.Lock()
		err := b.write([]byte(noPlace), errorTime)
		b.writing.Unlock()
		if c, ok := b.client.(interface{ CloseWrite() error }); ok && err == nil && c.CloseWrite() == nil && b.client.SetReadDeadline(time.Now().Add(errorTime)) == nil {
			_, _ = io.CopyN(io.Discard, b.client, maxClientLine) // whatever it says is of no interest
		}
	}
	b.d.leaving.Add(-1)
}

// outbound is the way from the server to the client.
type outbound struct {
	b      *bridge
	server net.Conn
	w      window
	scan   Scanner
	got    int // messages since the last charge
}

// hello passes the server's first words on and returns the number it has given the connection.
func (o *outbound) hello() (cid uint64, err error) {
	o.scan = Scanner{FromServer: true, MaxLine: maxServerLine, MaxPayload: maxServerPayload}
	for {
		if err := o.w.fill(o.server, 0); err != nil {
			return 0, err
		}
		f, n, err := o.scan.Next(o.w.buf[o.w.from:o.w.to])
		if err != nil {
			return 0, err
		}
		if n == 0 {
			continue
		}
		var info struct {
			ClientID uint64 `json:"client_id"`
		}
		if f.Op != Info {
			return 0, ErrProtocol
		}
		if err := json.Unmarshal(f.Arg, &info); err != nil {
			return 0, err
		}
		line := o.w.buf[o.w.from : o.w.from+n]
		o.w.from += n
		return info.ClientID, o.b.deliver(line, false)
	}
}

// run passes on what the server sends, in whole frames or pieces of a payload.
func (o *outbound) run() {
	for {
		start := o.w.from
		for o.w.from < o.w.to {
			f, n, err := o.scan.Next(o.w.buf[o.w.from:o.w.to])
			if err != nil {
				return // the server does not do that
			}
			if n == 0 {
				break
			}
			o.observe(&f)
			o.w.from += n
		}
		if o.w.from > start {
			o.charge(o.w.from - start)
			if err := o.b.deliver(o.w.buf[start:o.w.from], o.scan.Within()); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					o.b.d.refused(o.b, RefusedSlow)
				}
				return
			}
		}
		if o.w.fill(o.server, 0) != nil {
			return
		}
	}
}

// observe notes answers and violations.
func (o *outbound) observe(f *Frame) {
	h := o.b.holder.Load()
	if h == nil || h.own {
		return
	}
	switch f.Op {
	case Msg, HMsg:
		o.got++
		o.b.d.release(h, o.b.inbox.delivered(f.SID, f.Subject))
	case Err:
		if strings.HasPrefix(string(f.Arg), "'Permissions Violation") {
			h.violated(time.Now())
		}
	}
}

// charge lets the holder pay for what it gets, before it may send more: one call that is
// answered on each of its connections costs as much as all those answers.
func (o *outbound) charge(bytes int) {
	if h := o.b.holder.Load(); h != nil && !h.own {
		h.charge(time.Now(), load{bytes: bytes, messages: o.got})
		o.got = 0
	}
}
