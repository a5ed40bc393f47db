package listen_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/solo-os/solo/gateway/internal/listen"
)

func start(t *testing.T, o listen.Options) (*listen.Listener, chan net.Conn) {
	t.Helper()
	l, err := listen.Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	in, done := make(chan net.Conn, 16), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in <- c
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l, in
}

func dial(t *testing.T, l *listen.Listener, in chan net.Conn) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client, <-in
}

// closed returns when the far end has closed the connection.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("something was said")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("it stays open")
	}
}

func open(t *testing.T, client, server net.Conn) {
	t.Helper()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestTheOldestUnprovenMakesRoom(t *testing.T) {
	l, in := start(t, listen.Options{Unproven: 2, Patience: time.Hour})
	proven, ps := dial(t, l, in)
	l.Prove(ps.RemoteAddr())
	l.Prove(ps.RemoteAddr()) // once more changes nothing
	first, _ := dial(t, l, in)
	second, ss := dial(t, l, in)
	third, ts := dial(t, l, in)
	closed(t, first)
	open(t, second, ss)
	open(t, third, ts)
	open(t, proven, ps)
	if all, unproven := l.Counts(); all != 3 || unproven != 2 {
		t.Errorf("%d connections, %d unproven", all, unproven)
	}
	for _, c := range []net.Conn{ps, ss, ts, ts} {
		_ = c.Close()
	}
	if all, unproven := l.Counts(); all != 0 || unproven != 0 {
		t.Errorf("%d connections, %d unproven are left", all, unproven)
	}
}

func TestProvenOnesAreNotClosedForNewcomers(t *testing.T) {
	l, in := start(t, listen.Options{All: 1, Patience: time.Hour})
	client, server := dial(t, l, in)
	l.Prove(server.RemoteAddr())
	late, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	closed(t, late)
	open(t, client, server)
}

func TestPatienceEnds(t *testing.T) {
	l, in := start(t, listen.Options{Patience: 20 * time.Millisecond})
	silent, _ := dial(t, l, in)
	closed(t, silent)
	l2, in2 := start(t, listen.Options{Patience: 500 * time.Millisecond})
	client, server := dial(t, l2, in2)
	l2.Prove(server.RemoteAddr())
	other, _ := dial(t, l2, in2)
	closed(t, other) // and with it the time of the first has passed
	open(t, client, server)
}
