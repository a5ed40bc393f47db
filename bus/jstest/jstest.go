// Package jstest runs the real server with Solo's streams and buckets for tests that need
// storage and no fence: one account, no permissions, on disk, synced at every write, on a
// free port of the loopback. It can be stopped and started again on the same store.
package jstest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/stream"
)

const startTimeout = 20 * time.Second

// Server is a running server and a connection to it.
type Server struct {
	// Dir is where it stores; files may be changed while it is stopped.
	Dir  string
	Conn *nats.Conn
	JS   jetstream.JetStream

	t    testing.TB
	srv  *server.Server
	port int
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: t.TempDir(), t: t, port: -1}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start starts it, on the port it had before, and connects.
func (s *Server) Start() {
	s.t.Helper()
	s.StartServer()
	nc, err := nats.Connect(s.srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Conn = nc
	if s.JS, err = jetstream.New(nc); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := stream.Ensure(ctx, s.JS); err != nil {
		s.t.Fatal(err)
	}
}

// StartServer starts the server alone, after StopServer, and waits until the connection has
// found it again.
func (s *Server) StartServer() {
	s.t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: s.port, JetStream: true, StoreDir: s.Dir, SyncAlways: true, NoSigs: true, NoLog: true, MaxPayload: 2 << 20,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		s.t.Fatal("the server does not start")
	}
	s.srv = srv
	if a, ok := srv.Addr().(*net.TCPAddr); ok {
		s.port = a.Port
	}
	for end := time.Now().Add(startTimeout); s.Conn != nil && !s.Conn.IsClosed() && !s.Conn.IsConnected(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("the connection does not come back")
		}
	}
}

// Stop closes the connection and stops the server. It may be called more than once.
func (s *Server) Stop() {
	s.Conn.Close()
	s.StopServer()
}

// StopServer stops the server and leaves the connection to look for it.
func (s *Server) StopServer() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}
