// Package embed runs the NATS server inside the kernel's process: three accounts with static
// imports, JetStream for KERNEL alone with every write on disk before it is acknowledged,
// limits on everything the server can limit, and nothing else switched on.
//
// Who may connect, and as what, is decided by Options.Auth alone; a server without one does
// not start. Start and Stop are called once; the other methods are safe for concurrent use.
package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// MaxPayload of one message in bytes. Calls carry at most half; code travels in chunks.
const MaxPayload = 2 << 20

// startTimeout bounds a start, which is looked at every readyStep.
const (
	startTimeout = 30 * time.Second
	readyStep    = 50 * time.Millisecond
)

// Options of a Server.
type Options struct {
	// Addr is host:port to listen on; the host must be a loopback address, port 0 picks a free one.
	Addr string
	// Name of the node.
	Name string
	// StoreDir is where JetStream keeps its files.
	StoreDir string
	// Auth decides about every connection.
	Auth server.Authentication
	Log  *slog.Logger
	// Violation hears of every publish and subscription that the server refuses. It is called
	// on the connection's own goroutine, so it must be quick. May be nil.
	Violation func(Violation)
}

// Server is a running NATS server.
type Server struct {
	ns *server.Server
}

// Start returns when the server takes connections.
func Start(o Options) (*Server, error) {
	if o.Auth == nil {
		return nil, errors.New("the bus does not start without a fence")
	}
	host, port, err := loopback(o.Addr)
	if err != nil {
		return nil, err
	}
	so, err := options(o, host, port)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	l := newLogger(o.Log, o.Violation)
	ns.SetLoggerV2(l, false, false, false)
	ns.Start()
	s := &Server{ns}
	for end := time.Now().Add(startTimeout); !ns.ReadyForConnections(readyStep); {
		if cause := l.fatal(); cause != "" {
			s.Stop()
			return nil, fmt.Errorf("the bus does not listen on %s: %s", o.Addr, cause)
		}
		if time.Now().After(end) {
			s.Stop()
			return nil, fmt.Errorf("the bus does not listen on %s after %s", o.Addr, startTimeout)
		}
	}
	return s, nil
}

func loopback(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("bus address %q: want host:port: %w", addr, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("bus address %q: the port is no number from 0 to 65535", addr)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("bus address %q: only loopback addresses are served without TLS", addr)
	}
	return host, int(port), nil
}

// Addr is host:port where the server listens.
func (s *Server) Addr() string { return s.ns.Addr().String() }

// Account returns one of the three accounts.
func (s *Server) Account(name string) (*server.Account, error) {
	a, err := s.ns.LookupAccount(name)
	if err != nil {
		return nil, fmt.Errorf("account %s: %w", name, err)
	}
	return a, nil
}

// Alive tells whether a connection still exists.
func (s *Server) Alive(cid uint64) bool { return s.ns.GetClient(cid) != nil }

// Kick closes a connection and tells whether there was one. When it returns, the server
// delivers nothing to the connection any more and knows none of its subscriptions.
func (s *Server) Kick(cid uint64) bool { return s.ns.DisconnectClientByID(cid) == nil }

// Connections is how many there are, those included that have not authenticated yet.
func (s *Server) Connections() int { return s.ns.NumClients() }

// PendingReplies is how many requests across accounts wait for their answer.
func (s *Server) PendingReplies() int {
	n := 0
	for _, name := range []string{Service, Kernel} {
		if a, err := s.ns.LookupAccount(name); err == nil {
			n += a.NumPendingAllResponses()
		}
	}
	return n
}

// Stop closes every connection, writes out what JetStream holds and returns when all of the
// server has ended.
func (s *Server) Stop() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
