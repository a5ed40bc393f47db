package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxMessage bounds a message in either direction, in bytes.
const MaxMessage = 8 << 20

// Options of a Client.
type Options struct {
	// Addr is host:port of the gateway, 127.0.0.1:50051 when empty.
	Addr string
	// Handle is the secret, `SU...`. Either it or HandleFile is needed.
	Handle string
	// HandleFile holds the handle; only its owner may be able to read it.
	HandleFile string
	// TLS configures an encrypted connection; nil is plaintext.
	TLS *tls.Config
	// PlaintextOffLoopback allows sending the handle in the clear to another machine.
	PlaintextOffLoopback bool
}

// Client is a connection to Solo with one handle.
type Client struct {
	conn *grpc.ClientConn
	dial *dialer
	rpc  solov1.SoloKernelClient
	id   string
}

// retries repeats what UNAVAILABLE says was not done. Call is left out: a service may have
// worked on the message before its answer was lost.
const retries = `{"methodConfig": [
	{"name": [{"service": "solo.v1.SoloKernel", "method": "Call"}]},
	{"name": [{"service": "solo.v1.SoloKernel"}],
	 "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// ErrCleartext says that a handle would be sent unencrypted to another machine.
var ErrCleartext = errors.New("a handle is not sent in the clear")

// Dial makes a client. It connects when the first call is made, so an address where nobody
// listens shows there as UNAVAILABLE, after the 3 s that Solo may need to restart its gateway.
func Dial(_ context.Context, o Options) (*Client, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:50051"
	}
	seed := o.Handle
	if seed == "" {
		var err error
		if seed, err = ReadHandle(o.HandleFile); err != nil {
			return nil, err
		}
	}
	id, err := ID(seed)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: want host:port, e.g. 127.0.0.1:50051", o.Addr)
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	} else if !loopback(host) && !o.PlaintextOffLoopback {
		return nil, fmt.Errorf("%s is another machine and the connection is not encrypted: %w; configure TLS, or allow plaintext by name", o.Addr, ErrCleartext)
	}
	d := &dialer{addr: o.Addr}
	conn, err := grpc.NewClient("passthrough:///"+o.Addr,
		grpc.WithContextDialer(d.connect),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: redialing(), MinConnectTimeout: 5 * time.Second}),
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(bearer(seed)),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
	)
	if err != nil {
		return nil, err
	}
	d.conn = conn
	return &Client{conn: conn, dial: d, rpc: solov1.NewSoloKernelClient(conn), id: id}, nil
}

// Close ends the connection and every stream on it.
func (c *Client) Close() error { return c.conn.Close() }

// ID is the public key of the client's handle, safe to show and log.
func (c *Client) ID() string { return c.id }

// bearer presents the handle with every call. Where it may be sent is decided in Dial.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// String keeps the handle out of whatever prints its options.
func (bearer) String() string { return "a handle" }

// errHandle does not repeat what was given: it may be a handle with a typing error.
var errHandle = errors.New("not a handle: want a seed, SU and 56 more characters")

// ID is the public key of a handle.
func ID(handle string) (string, error) {
	kp, err := nkeys.FromSeed([]byte(handle))
	if err != nil {
		return "", errHandle
	}
	defer kp.Wipe()
	id, err := kp.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(id) {
		return "", errHandle
	}
	return id, nil
}

// NewHandle makes a fresh handle and its id. It is worth nothing until its id is granted something.
func NewHandle() (handle, id string, err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return "", "", err
	}
	defer kp.Wipe()
	seed, err := kp.Seed()
	if err != nil {
		return "", "", err
	}
	id, err = kp.PublicKey()
	return string(seed), id, err
}

// ReadHandle reads a handle from a file that only its owner can read. Lines that begin with #
// or - are passed over, so nk and creds-like files work too.
func ReadHandle(path string) (string, error) {
	if path == "" {
		return "", errors.New("no handle: give one, or the file that holds it")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("handle file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("handle file: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("handle file %s can be read by others (mode %04o): make it private with chmod 600", path, st.Mode().Perm())
	}
	b := make([]byte, 4096)
	n, err := f.Read(b)
	if n == 0 && err != nil {
		return "", fmt.Errorf("handle file %s: %w", path, err)
	}
	for line := range strings.Lines(string(b[:n])) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '-' {
			continue
		}
		if _, err := ID(line); err != nil {
			return "", fmt.Errorf("handle file %s: %w", path, err)
		}
		return line, nil
	}
	return "", fmt.Errorf("handle file %s holds no handle", path)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
