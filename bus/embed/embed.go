// Package embed runs the NATS server inside the kernel's process: three accounts with static
// imports, JetStream for KERNEL alone with every write on disk before it is acknowledged,
// limits on everything the server can limit, and nothing else switched on.
//
// Who may connect, and as what, is decided by Options.Auth alone; a server without one does
// not start. The server itself listens nowhere: package door takes the connections, on TCP for
// everybody and on a Unix socket for Solo's own processes, and leads them in. Start and Stop
// are called once; the other methods are safe for concurrent use.
package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/door"
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
	// Socket is the path of the Unix socket for Solo's own processes; empty is none.
	Socket string
	// Door is what the door in front of the server asks, tells and lets through.
	Door door.Options
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
	ns     *server.Server
	door   *door.Door
	socket string
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
	s := &Server{socket: o.Socket}
	s.door, err = door.Listen(net.JoinHostPort(host, strconv.Itoa(port)), o.Socket, s.connect, o.Door)
	if err != nil {
		return nil, fmt.Errorf("the bus does not listen on %s: %w", o.Addr, err)
	}
	if err := s.start(o); err != nil {
		s.Stop()
		return nil, err
	}
	s.door.Open()
	return s, nil
}

// start runs the server behind the door.
func (s *Server) start(o Options) error {
	so, err := options(o, s.door.Addr())
	if err != nil {
		return err
	}
	so.CustomClientAuthentication = entrance{o.Auth, s.door}
	if s.ns, err = server.NewServer(so); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	l := newLogger(o.Log, o.Violation)
	s.ns.SetLoggerV2(l, false, false, false)
	s.ns.Start()
	for end := time.Now().Add(startTimeout); !s.ns.ReadyForConnections(readyStep); {
		if cause := l.fatal(); cause != "" {
			return fmt.Errorf("the bus does not start: %s", cause)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the bus is not ready after %s", startTimeout)
		}
	}
	l.Noticef("Listening for client connections on %s", s.Addr())
	return nil
}

// connect is how the door gets in.
func (s *Server) connect() (net.Conn, error) { return s.ns.InProcessConn() }

// entrance tells the door of every connection that the fence lets in.
type entrance struct {
	fence server.Authentication
	door  *door.Door
}

// Check decides about one CONNECT.
func (e entrance) Check(c server.ClientAuthentication) bool {
	return e.fence.Check(c) && (c.Kind() != server.CLIENT || e.door.Authenticated(c.GetID(), c.GetOpts().Nkey))
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

// Addr is host:port where everybody connects.
func (s *Server) Addr() string { return s.door.Addr() }

// OwnAddr is where Solo's own processes connect, in the form of conn.Options.Addr: the Unix
// socket, or Addr where there is none.
func (s *Server) OwnAddr() string {
	if s.socket == "" {
		return s.Addr()
	}
	return conn.Unix + s.socket
}

// Door is what stands in front of the server.
func (s *Server) Door() *door.Door { return s.door }

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
// delivers nothing to the connection any more and knows none of its subscriptions, and nothing
// more of it reaches the server. What the server had delivered before may still arrive.
func (s *Server) Kick(cid uint64) bool {
	s.door.Stop(cid)
	return s.ns.DisconnectClientByID(cid) == nil
}

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
	s.door.Shut()
	if s.ns != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}
	s.door.Close()
}
