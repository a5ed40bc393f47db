package door_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/solo-os/solo/bus/door"
)

// BenchmarkCall is one call and its answer: over TCP to a server that listens itself, and
// through the door in front of one, over TCP and over the Unix socket's way in.
func BenchmarkCall(b *testing.B) {
	b.Run("direct", func(b *testing.B) { roundTrips(b, direct(b)) })
	b.Run("door", func(b *testing.B) { roundTrips(b, throughDoor(b)) })
}

// BenchmarkPublish is the throughput of one publisher, 128 bytes a message.
func BenchmarkPublish(b *testing.B) {
	b.Run("direct", func(b *testing.B) { publishes(b, direct(b)) })
	b.Run("door", func(b *testing.B) { publishes(b, throughDoor(b)) })
}

func options() *server.Options {
	return &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true}
}

func run(b *testing.B, o *server.Options) *server.Server {
	b.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		b.Fatal("the server does not start")
	}
	return s
}

func direct(b *testing.B) string { return run(b, options()).ClientURL() }

// everyone lets in who knows the name of a key.
type everyone struct{ d **door.Door }

func (e everyone) Check(c server.ClientAuthentication) bool {
	c.RegisterUser(&server.User{Username: "x"})
	return (*e.d).Authenticated(c.GetID(), c.GetOpts().Username)
}

func throughDoor(b *testing.B) string {
	var d *door.Door
	o := options()
	o.DontListen, o.CustomClientAuthentication = true, everyone{&d}
	s := run(b, o)
	l := door.DefaultLimits()
	l.Messages, l.Bytes = door.Rate{}, door.Rate{}
	var err error
	if d, err = door.Listen("127.0.0.1:0", "", s.InProcessConn, door.Options{Limits: l}); err != nil {
		b.Fatal(err)
	}
	d.Open()
	b.Cleanup(d.Close)
	return "nats://u:p@" + d.Addr()
}

func connect(b *testing.B, url string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

func roundTrips(b *testing.B, url string) {
	answering, asking := connect(b, url), connect(b, url)
	if _, err := answering.Subscribe("svc.a", echo); err != nil {
		b.Fatal(err)
	}
	if err := answering.Flush(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := asking.Request("svc.a", []byte("x"), patience); err != nil {
			b.Fatal(err)
		}
	}
}

func publishes(b *testing.B, url string) {
	reading, writing := connect(b, url), connect(b, url)
	n := 0
	done := make(chan struct{})
	sub, err := reading.Subscribe("a", func(m *nats.Msg) {
		if n++; len(m.Data) == 0 {
			close(done)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		b.Fatal(err)
	}
	if err := reading.Flush(); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 128)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if err := writing.Publish("a", p); err != nil {
			b.Fatal(err)
		}
	}
	if err := writing.Publish("a", nil); err != nil {
		b.Fatal(err)
	}
	<-done
}
