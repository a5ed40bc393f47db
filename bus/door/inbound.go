package door

import (
	"bytes"
	"errors"
	"net"
	"os"
	"time"

	"github.com/solo-os/solo/bus/check"
)

// maxPayload of a publish in bytes: the server's own bound.
const maxPayload = 2 << 20

// slowRead is how many bytes are read at a time from a holder that is beyond a limit: some ten
// calls, so that what passes comes evenly and not in heaps, and violations are known of before
// they become many.
const slowRead = 1 << 10

// inbound is the way from the client to the server.
type inbound struct {
	b         *bridge
	server    net.Conn
	w         window
	scan      Scanner
	start     int  // in the window: where what is not passed on yet begins
	connected bool // CONNECT has been sent
	dropping  bool // the payload under way belongs to what was refused
	slow      bool // the holder was beyond a limit
	load      load
}

// errRefused ends a connection that has been told why.
var errRefused = errors.New("refused")

// run reads the client until it ends, or the connection is no longer led on.
func (i *inbound) run() {
	b := i.b
	i.scan = Scanner{MaxLine: maxClientLine, MaxPayload: maxPayload}
	for {
		limit := 0
		if i.slow {
			limit = slowRead
		}
		before := i.w.to - i.w.from
		if err := i.w.fill(b.client, limit); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				b.d.refused(b, RefusedStranger)
				b.fail("Authentication Timeout")
			}
			return
		}
		i.start, i.load = i.w.from, load{bytes: i.w.to - i.w.from - before}
		err := i.frames()
		if err == nil {
			err = i.pace()
		}
		if err == nil {
			err = i.flush()
		}
		switch {
		case errors.Is(err, errRefused):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			// Muted, or the server takes nothing: what it has written may still go out.
			<-b.done
			return
		case err != nil:
			return
		}
	}
}

// frames judges all frames in the window and passes them on, but for the last ones, which are
// left to flush.
func (i *inbound) frames() error {
	for i.w.from < i.w.to {
		f, n, err := i.scan.Next(i.w.buf[i.w.from:i.w.to])
		if err != nil {
			if ferr := i.flush(); ferr != nil {
				return ferr
			}
			return i.refuse(text(err))
		}
		if n == 0 {
			return nil
		}
		if err := i.turn(f.Op); err != nil {
			return err
		}
		pass, err := i.judge(&f)
		if err != nil {
			return err
		}
		if !pass {
			if err := i.flush(); err != nil {
				return err
			}
			i.start += n
		}
		i.w.from += n
	}
	return nil
}

func text(err error) string {
	switch {
	case errors.Is(err, ErrLine):
		return "maximum control line exceeded"
	case errors.Is(err, ErrPayload):
		return "Maximum Payload Violation"
	}
	return "Unknown Protocol Operation"
}

// flush passes on what has been judged.
func (i *inbound) flush() error {
	p := i.w.buf[i.start:i.w.from]
	i.start = i.w.from
	return i.b.forward(i.server, p)
}

// refuse ends the connection with a reason.
func (i *inbound) refuse(why string) error {
	i.b.d.refused(i.b, RefusedProtocol)
	i.b.fail(why)
	return errRefused
}

// turn tells whether it is the operation's turn: one CONNECT, and nothing of weight before it
// has been answered for, which is waited for.
func (i *inbound) turn(op Op) error {
	b := i.b
	switch op {
	case Connect:
		if i.connected && check.On(check.OneConnect) {
			return i.refuse("Authorization Violation: one CONNECT a connection")
		}
		i.connected = true
		return nil
	case Ping, Pong, Info, Payload:
		return nil
	}
	if b.holder.Load() != nil {
		return nil
	}
	if !i.connected {
		return i.refuse("Authorization Violation: CONNECT comes first")
	}
	if err := i.flush(); err != nil {
		return err
	}
	t := time.NewTimer(time.Until(b.began.Add(b.d.l.AuthTime)))
	defer t.Stop()
	select {
	case <-b.known:
		return nil
	case <-b.done:
		return net.ErrClosed
	case <-t.C:
		return i.refuse("Authentication Timeout")
	}
}

// judge tells whether a frame is passed on, and answers for those that are not.
func (i *inbound) judge(f *Frame) (pass bool, err error) {
	if f.Op == Payload {
		pass = !i.dropping
		i.dropping = i.dropping && !f.End
		return pass, nil
	}
	b := i.b
	h := b.holder.Load()
	if h == nil || h.own {
		return true, nil
	}
	switch f.Op {
	case Sub:
		i.load.interest++
		b.inbox.subscribe(f.SID, f.Subject)
	case Unsub:
		i.load.interest++
		b.d.release(h, b.inbox.unsubscribe(f.SID, f.Max))
	case Pub, HPub:
		i.load.messages++
		if len(f.Reply) == 0 {
			return true, nil
		}
		a, refused := i.call(h, f)
		if !refused {
			return true, nil
		}
		i.dropping = true
		if sid, ok := b.inbox.listener(string(f.Reply)); ok { // else nobody would hear the answer
			return false, b.say(a.message(f.Reply, sid))
		}
		return false, nil
	}
	return true, nil
}

// call takes a place for a call, or returns the answer to one that has none.
func (i *inbound) call(h *holder, f *Frame) (a answer, refused bool) {
	d := i.b.d
	if d.o.Admit != nil && bytes.HasPrefix(f.Subject, []byte("svc.")) {
		if err := d.o.Admit(h.id, f.Subject); err != nil {
			d.refused(i.b, RefusedAdmit)
			return newAnswer(err), true
		}
	}
	if !d.reserve(h) {
		d.refused(i.b, RefusedCalls)
		return d.full, true
	}
	if isPull(f.Subject) {
		i.b.inbox.pull(f.Reply, time.Now().Add(PullTime))
	} else {
		i.b.inbox.call(f.Reply, time.Now().Add(d.l.CallTime))
	}
	return a, false
}

// reserve takes a place for one call of a holder.
func (d *Door) reserve(h *holder) bool {
	mine, all := h.calls.Add(1), d.calls.Add(1)
	if d.l.Calls > 0 && mine > int64(d.l.Calls) || d.l.CallsInAll > 0 && all > int64(d.l.CallsInAll) {
		d.release(h, 1)
		return false
	}
	return true
}

// pace waits while the holder is beyond a limit, before the rest of the window is passed on, so
// that the connections of one holder take turns.
func (i *inbound) pace() error {
	b := i.b
	h := b.holder.Load()
	if h == nil || h.own {
		return nil
	}
	wait, what := h.charge(time.Now(), i.load)
	if i.slow = wait > 0; !i.slow {
		return nil
	}
	b.d.refused(b, what)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-b.done:
		return net.ErrClosed
	}
}
