// Package conn connects to the bus with a handle: the seed signs the server's nonce and stays
// here. Every connection listens only below its own unguessable inbox.
package conn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/proto/subject"
)

// Unix stands before the path of a socket in an address.
const Unix = "unix:"

// socket dials a Unix socket, whatever address the client library asks for.
type socket struct {
	path    string
	timeout time.Duration
}

// Dial connects.
func (s socket) Dial(_, _ string) (net.Conn, error) {
	return net.DialTimeout("unix", s.path, s.timeout)
}

// Options of a connection.
type Options struct {
	// Addr of the bus: host:port, or Unix and the path of its socket.
	Addr string
	// Seed is the handle, `SU...`.
	Seed string
	// Name shows in the server's connection list.
	Name string
	// Reconnect keeps trying for as long as the process lives, with short waits; without it the
	// connection is closed for good when it is lost.
	Reconnect bool
	// Lost, Found and Closed hear of the connection going, coming back and ending; each may be nil.
	Lost, Found, Closed func(*nats.Conn)
	// Error hears asynchronous errors: permission violations, slow consumers.
	Error func(*nats.Conn, *nats.Subscription, error)
}

// ID is the public key of a seed.
func ID(seed string) (string, error) {
	kp, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return "", errors.New("not a handle: want a user seed, SU and 56 more characters")
	}
	defer kp.Wipe()
	id, err := kp.PublicKey()
	if err != nil || !subject.ValidID(id) {
		return "", errors.New("not a handle: want a user seed, SU and 56 more characters")
	}
	return id, nil
}

// Dial connects and returns the connection and the id it authenticated with.
func Dial(ctx context.Context, o Options) (*nats.Conn, string, error) {
	id, err := ID(o.Seed)
	if err != nil {
		return nil, "", err
	}
	timeout := 5 * time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	seed := []byte(o.Seed)
	opts := []nats.Option{
		nats.Name(o.Name), nats.Timeout(timeout), nats.NoEcho(), nats.NoCallbacksAfterClientClose(),
		nats.CustomInboxPrefix(subject.InboxPrefix(id) + "." + rand.Text()[:20]),
		nats.Nkey(id, func(nonce []byte) ([]byte, error) {
			kp, err := nkeys.FromSeed(seed)
			if err != nil {
				return nil, err
			}
			defer kp.Wipe()
			return kp.Sign(nonce)
		}),
		nats.ReconnectBufSize(-1), // a message that cannot go out now is the caller's to know of
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
	}
	if o.Reconnect {
		opts = append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.IgnoreAuthErrorAbort())
	} else {
		opts = append(opts, nats.NoReconnect())
	}
	if o.Lost != nil {
		opts = append(opts, nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) { o.Lost(nc) }))
	}
	if o.Found != nil {
		opts = append(opts, nats.ReconnectHandler(o.Found))
	}
	if o.Closed != nil {
		opts = append(opts, nats.ClosedHandler(o.Closed))
	}
	if o.Error != nil {
		opts = append(opts, nats.ErrorHandler(o.Error))
	}
	url := "nats://" + o.Addr
	if path, ok := strings.CutPrefix(o.Addr, Unix); ok {
		// The library wants some host of its own.
		url = "nats://127.0.0.1"
		opts = append(opts, nats.SetCustomDialer(socket{path, timeout}), nats.IgnoreDiscoveredServers())
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, "", fmt.Errorf("bus at %s: %w", o.Addr, err)
	}
	return nc, id, nil
}
