package conn_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/proto/subject"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func handle(t *testing.T) (seed, id string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	b, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if id, err = kp.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return string(b), id
}

// start runs a server on a port that knows the ids; each may only listen in its own inbox.
func start(t *testing.T, port int, ids ...string) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true}
	for _, id := range ids {
		o.Nkeys = append(o.Nkeys, &server.NkeyUser{Nkey: id, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"to.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{subject.InboxAll(id)}},
		}})
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

func TestID(t *testing.T) {
	seed, id := handle(t)
	if got, err := conn.ID(seed); got != id || err != nil {
		t.Errorf("%s %v", got, err)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	other, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"", "SU", id, string(other), seed[:len(seed)-1]} {
		if got, err := conn.ID(s); err == nil || strings.Contains(err.Error(), s) && s != "" && s != "SU" {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
}

func TestDial(t *testing.T) {
	seed, id := handle(t)
	s := start(t, server.RANDOM_PORT, id)
	addr := s.Addr().String()
	failed := make(chan error, 4)
	closed := make(chan struct{})
	nc, got, err := conn.Dial(within(t), conn.Options{
		Addr: addr, Seed: seed, Name: "test",
		Error:  func(_ *nats.Conn, _ *nats.Subscription, err error) { failed <- err },
		Closed: func(*nats.Conn) { close(closed) },
	})
	if err != nil || got != id {
		t.Fatal(got, err)
	}
	defer nc.Close()
	inbox := nc.NewInbox()
	if !strings.HasPrefix(inbox, subject.InboxPrefix(id)+".") || len(inbox) < len(subject.InboxPrefix(id))+40 {
		t.Errorf("inbox %s", inbox)
	}
	again, _, err := conn.Dial(within(t), conn.Options{Addr: addr, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	prefix := func(s string) string { return s[:strings.LastIndexByte(s, '.')] }
	if prefix(again.NewInbox()) == prefix(inbox) {
		t.Error("two connections share an inbox")
	}
	// Nothing outside the permissions, and it is told.
	if err := nc.Publish("elsewhere", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the violation is not told")
	}
	// Without Reconnect a lost connection ends for good.
	s.Shutdown()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("the connection does not end")
	}
}

func TestDialRefused(t *testing.T) {
	seed, id := handle(t)
	stranger, _ := handle(t)
	s := start(t, server.RANDOM_PORT, id)
	if _, _, err := conn.Dial(within(t), conn.Options{Addr: s.Addr().String(), Seed: stranger}); err == nil || strings.Contains(err.Error(), stranger) {
		t.Errorf("a stranger: %v", err)
	}
	if _, _, err := conn.Dial(within(t), conn.Options{Addr: s.Addr().String(), Seed: "nonsense"}); err == nil {
		t.Error("no handle is no error")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Dial(within(t), conn.Options{Addr: addr, Seed: seed}); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestReconnect(t *testing.T) {
	seed, id := handle(t)
	s := start(t, server.RANDOM_PORT, id)
	port := s.Addr().(*net.TCPAddr).Port
	lost, found := make(chan struct{}, 1), make(chan struct{}, 1)
	nc, _, err := conn.Dial(within(t), conn.Options{
		Addr: s.Addr().String(), Seed: seed, Reconnect: true,
		Lost: func(*nats.Conn) { lost <- struct{}{} }, Found: func(*nats.Conn) { found <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	for _, c := range []struct {
		what string
		ch   chan struct{}
	}{{"lost", lost}, {"found", found}} {
		select {
		case <-c.ch:
		case <-time.After(patience):
			t.Fatalf("the connection is not %s", c.what)
		}
		if c.what == "lost" {
			// What cannot go out now fails at once: it is not kept for later.
			if err := nc.Publish("to.x", nil); err == nil {
				t.Error("a message was kept while the connection was lost")
			}
			start(t, port, id)
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Error(err)
	}
}

// A connection goes over a Unix socket, and comes back over it.
func TestUnix(t *testing.T) {
	seed, id := handle(t)
	s := start(t, server.RANDOM_PORT, id)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	accepted := make(chan net.Conn, 2)
	for range 2 {
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			accepted <- c
			up, err := s.InProcessConn()
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() { _, _ = io.Copy(up, c); _ = up.Close() })
			_, _ = io.Copy(c, up)
		})
	}
	found := make(chan struct{}, 1)
	nc, _, err := conn.Dial(within(t), conn.Options{Addr: conn.Unix + path, Seed: seed, Reconnect: true, Found: func(*nats.Conn) { found <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if err := (<-accepted).Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-found:
	case <-time.After(patience):
		t.Fatal("the connection does not come back")
	}
	if _, _, err := conn.Dial(within(t), conn.Options{Addr: conn.Unix + path + "x", Seed: seed}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("nobody there: %v", err)
	}
}
