package door_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
)

func limits(f func(l *door.Limits)) door.Options {
	l := door.DefaultLimits()
	f(&l)
	return door.Options{Limits: l}
}

func TestCallsUnderWay(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) { l.Calls = 2 }))
	got := make(chan *nats.Msg, 8)
	w.serve(func(m *nats.Msg) { got <- m })
	alice, bob := w.Grant(t, "svc:acme/*=*"), w.Grant(t, "svc:acme/*=*")
	a := w.Dial(t, alice)
	ask := func(nc *nats.Conn, h bustest.Handle) *nats.Subscription {
		t.Helper()
		inbox := nc.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest(call(h), inbox, bytes.Repeat([]byte("x"), 100_000)); err != nil {
			t.Fatal(err)
		}
		return sub
	}
	refused := func(sub *nats.Subscription) {
		t.Helper()
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		err = rpc.ReplyError(m)
		if f := fault.From(err); !fault.Is(err, fault.ReasonTooManyCalls) || f.Code != codes.ResourceExhausted || f.RetryAfter <= 0 {
			t.Fatalf("%v", err)
		}
	}
	first, second := ask(a, alice), ask(a, alice)
	m1 := <-got
	<-got
	refused(ask(a, alice))
	if _, err := a.Request(call(alice), nil, patience); err != nil {
		t.Fatal(err) // the shared inbox of requests gets the refusal, too
	}
	// Another holder has places of its own.
	ask(w.Dial(t, bob), bob)
	<-got
	// An answer gives a place back, and so does an inbox that is no longer wanted.
	if err := m1.Respond([]byte("done")); err != nil {
		t.Fatal(err)
	}
	if m, err := first.NextMsg(patience); err != nil || string(m.Data) != "done" {
		t.Fatal(m, err)
	}
	ask(a, alice)
	<-got
	if err := second.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	third := ask(a, alice)
	<-got
	refused(ask(a, alice))
	if n := w.Server.Door().Calls(); n != 3 {
		t.Errorf("%d calls are counted, want 3", n)
	}
	a.Close()
	w.until("the calls of an ended connection are forgotten", func() bool { return w.Server.Door().Calls() == 1 })
	if n := w.count(door.RefusedCalls); n != 3 {
		t.Errorf("%d refusals were told", n)
	}
	_ = third
}

func TestAdmit(t *testing.T) {
	asked := make(chan string, 8)
	no := fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "not so\r\nfast").Retry(time.Second)
	w := newWorld(t, door.Options{Admit: func(id string, s []byte) error {
		asked <- id + " " + string(s)
		if bytes.Contains(s, []byte(".get.")) {
			return no
		}
		return nil
	}})
	w.serve(echo)
	alice := w.Grant(t, "svc:acme/*=*")
	a := w.Dial(t, alice)
	m, err := a.Request(call(alice), []byte("x"), patience)
	if err != nil || !fault.Is(rpc.ReplyError(m), fault.ReasonRateLimited) {
		t.Fatal(m, err)
	}
	if s := <-asked; s != alice.ID+" "+call(alice) {
		t.Errorf("asked about %s", s)
	}
	if m, err = a.Request(subject.Call(counter(), "set", alice.ID), []byte("x"), patience); err != nil || string(m.Data) != "x" {
		t.Fatal(m, err)
	}
	<-asked
	if _, err := a.Request(subject.Sys(subject.Registry, "status", counter(), alice.ID), nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a system call: %v", err)
	}
	select {
	case s := <-asked:
		t.Errorf("asked about %s", s)
	default:
	}
}

func TestStrangers(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) { l.TCP.StrangersPerAddress, l.AuthTime = 4, 300*time.Millisecond }))
	alice := w.Grant(t, "svc:acme/*=*")
	var quiet []*raw
	for range 50 {
		quiet = append(quiet, w.socket())
	}
	w.Dial(t, alice)
	for _, c := range quiet {
		c.rest()
	}
	if n := w.count(door.RefusedStranger); n != 50 {
		t.Errorf("%d strangers were turned away, want 50", n)
	}
	w.until("no stranger is left", func() bool { s, u := w.Server.Door().Counts(); return s >= 3 && u == 0 })
	late := w.socket()
	if got := late.rest(); !strings.Contains(got, "-ERR 'Authentication Timeout'") {
		t.Errorf("who is late is told %q", got)
	}
}

// What fills TCP leaves the Unix socket free.
func TestPlaces(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) { l.TCP.Sockets = 2 }))
	alice := w.Grant(t, "svc:acme/*=*") // its chain takes a place on TCP
	w.Dial(t, alice)
	if _, err := w.TryDial(t, alice); err == nil || !strings.Contains(err.Error(), "maximum connections exceeded") {
		t.Errorf("without a place: %v", err)
	}
	w.serve(echo)
	if i, err := os.Stat(filepath.Join(w.Home, "bus.sock")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the Unix socket: %v %v", i, err)
	}
}

func TestConnectionsOfOneHolder(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) { l.Connections = 2 }))
	alice, bob := w.Grant(t, "svc:acme/*=*"), w.Grant(t, "svc:acme/*=*")
	one := w.Dial(t, alice)
	w.Dial(t, alice)
	if _, err := w.TryDial(t, alice); err == nil || !strings.Contains(err.Error(), "maximum connections exceeded") {
		t.Errorf("a third connection: %v", err)
	}
	w.Dial(t, bob)
	one.Close()
	w.until("an ended connection makes room", func() bool { _, err := w.TryDial(t, alice); return err == nil })
}

func TestTurns(t *testing.T) {
	w := newWorld(t, door.Options{})
	w.serve(echo)
	alice := w.Grant(t, "svc:acme/*=*")
	inbox := subject.InboxPrefix(alice.ID) + ".raw.1"
	// Who does not wait for the server's word is served all the same, byte by byte.
	c := w.socket()
	all := c.connect(alice) + "SUB " + inbox + " 7\r\nPUB " + call(alice) + " " + inbox + " 5\r\nhello\r\n"
	for i := range len(all) {
		c.say(all[i : i+1])
	}
	if l := c.line(); l != "MSG "+inbox+" 7 5" {
		t.Errorf("%q", l)
	}
	if l := c.line(); l != "hello" {
		t.Errorf("%q", l)
	}
	for name, x := range map[string]struct {
		then string
		want string
	}{
		"a second CONNECT":  {"CONNECT {}\r\n", "-ERR 'Authorization Violation"},
		"garbage":           {"GET / HTTP/1.1\r\n", "-ERR 'Unknown Protocol Operation'"},
		"an endless line":   {"SUB " + strings.Repeat("x", 5000), "-ERR 'maximum control line exceeded'"},
		"a large payload":   {"PUB " + call(alice) + " 2097153\r\n", "-ERR 'Maximum Payload Violation'"},
		"a payload too far": {"PUB " + call(alice) + " 1\r\nxyz\r\n", "-ERR 'Unknown Protocol Operation'"},
	} {
		c := w.socket()
		c.say(c.connect(alice) + "PING\r\n")
		if l := c.line(); l != "PONG" {
			t.Fatalf("%s: %q", name, l)
		}
		c.say(x.then)
		if got := c.rest(); !strings.Contains(got, x.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	early := w.socket()
	early.line()
	early.say("SUB a 1\r\n")
	if got := early.rest(); !strings.HasPrefix(got, "-ERR 'Authorization Violation") {
		t.Errorf("before CONNECT: %q", got)
	}
	stranger := w.socket()
	stranger.say(stranger.connect(bustest.NewHandle(t)) + "SUB a 1\r\n")
	if got := stranger.rest(); !strings.HasPrefix(got, "-ERR 'Authorization Violation'") {
		t.Errorf("a stranger's key: %q", got)
	}
}

// A client that does not read is cut off, and nobody else waits for it.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) { l.WriteTime = 300 * time.Millisecond }))
	big := make([]byte, 1<<20)
	w.serve(func(m *nats.Msg) {
		if len(m.Data) > 0 {
			_ = m.Respond(big)
			return
		}
		_ = m.Respond(nil)
	})
	alice, bob := w.Grant(t, "svc:acme/*=*"), w.Grant(t, "svc:acme/*=*")
	inbox := subject.InboxPrefix(alice.ID) + ".raw.1"
	c := w.socket()
	c.say(c.connect(alice) + "SUB " + inbox + " 1\r\n")
	for range 24 {
		c.say("PUB " + call(alice) + " " + inbox + " 1\r\nx\r\n")
	}
	b := w.Dial(t, bob)
	for w.count(door.RefusedSlow) == 0 {
		if _, err := b.Request(call(bob), nil, patience); err != nil {
			t.Fatal(err)
		}
	}
	w.until("its calls are forgotten", func() bool { return w.Server.Door().Calls() == 0 })
}

// Who sends too much is read later; all of it arrives, in order.
func TestRates(t *testing.T) {
	for what, f := range map[string]func(l *door.Limits){
		door.RefusedMessages: func(l *door.Limits) { l.Messages = door.Rate{PerSecond: 2000, Burst: 20} },
		door.RefusedBytes:    func(l *door.Limits) { l.Bytes = door.Rate{PerSecond: 400_000, Burst: 1000} },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, limits(f))
			got := make(chan string, 400)
			w.serve(func(m *nats.Msg) { got <- string(m.Data) })
			alice := w.Grant(t, "svc:acme/*=*")
			a := w.Dial(t, alice)
			for i := range 400 {
				if err := a.Publish(call(alice), fmt.Appendf(nil, "%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 400 {
				if s := <-got; s != fmt.Sprint(i) {
					t.Fatalf("message %d is %s", i, s)
				}
			}
			if w.count(what) == 0 {
				t.Error("nothing was held up")
			}
		})
	}
}

func TestStormsAreSlowed(t *testing.T) {
	w := newWorld(t, limits(func(l *door.Limits) {
		l.Interest, l.Violations = door.Rate{PerSecond: 5000, Burst: 10}, door.Rate{PerSecond: 200, Burst: 10}
	}))
	alice := w.Grant(t, "svc:acme/*=*")
	a := w.Dial(t, alice)
	a.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	for range 500 {
		s, err := a.SubscribeSync(a.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if w.count(door.RefusedInterest) == 0 {
		t.Error("a storm of subscriptions was not held up")
	}
	w.until("violations are held up", func() bool {
		for range 50 {
			if err := a.Publish("not.mine", nil); err != nil {
				t.Fatal(err)
			}
		}
		return a.FlushTimeout(patience) == nil && w.count(door.RefusedViolations) > 0
	})
}

// After a revocation nothing of the revoked reaches the server, however much was under way.
func TestRevokedWhileSending(t *testing.T) {
	w := newWorld(t, door.Options{})
	got := make(chan string, 1<<16)
	w.serve(func(m *nats.Msg) { got <- string(m.Data) })
	alice := w.Grant(t, "svc:acme/*=*")
	c := w.socket()
	c.say(c.connect(alice) + "PING\r\n")
	if l := c.line(); l != "PONG" {
		t.Fatal(l)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(c, "PUB %s 8\r\n%08d\r\n", call(alice), i); err != nil {
				return
			}
		}
	}()
	<-got
	w.Revoke(t, alice.ID)
	<-sent
	if rest := c.rest(); strings.Contains(rest, "MSG") {
		t.Errorf("%q", rest)
	}
}
