package attack

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
)

// wire is a TCP connection to the bus on which the attacker writes what it likes.
type wire struct {
	net.Conn
	r     *bufio.Reader
	nonce string
}

// dial connects and reads the server's first line.
func (s *scene) wire(ctx context.Context) (*wire, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr["nats"])
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d) // a connection without deadlines fails the next read as well
	}
	w := &wire{Conn: c, r: bufio.NewReader(c)}
	line, err := w.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	var info struct{ Nonce string }
	err = json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info)
	w.nonce = info.Nonce
	return w, err
}

// sign signs a nonce as a client does.
func sign(seed, nonce string) (string, error) {
	kp, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return "", err
	}
	b, err := kp.Sign([]byte(nonce))
	return base64.RawURLEncoding.EncodeToString(b), err
}

// connect is the frame that says who one is.
func connect(id, sig string) string {
	return fmt.Sprintf("CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"nkey\":%q,\"sig\":%q}\r\n", id, sig)
}

// as writes a good CONNECT and waits until the server has taken it.
func (w *wire) as(h holder) error {
	sig, err := sign(h.seed, w.nonce)
	if err != nil {
		return err
	}
	if err := w.write(connect(h.id, sig)); err != nil {
		return err
	}
	if why := w.ping(); why != "" {
		return fmt.Errorf("CONNECT: %s", why)
	}
	return nil
}

func (w *wire) write(frame string) error {
	_, err := io.WriteString(w, frame)
	return err
}

// ping waits for the server's answer to a PING and returns the first error that comes before
// it; empty is none.
func (w *wire) ping() string {
	if err := w.write("PING\r\n"); err != nil {
		return err.Error()
	}
	for {
		line, err := w.r.ReadString('\n')
		switch {
		case err != nil:
			return err.Error()
		case strings.HasPrefix(line, "-ERR"):
			return strings.TrimSpace(line)
		case strings.HasPrefix(line, "PONG"):
			return ""
		}
	}
}

// until gives the connection a deadline of its own.
func (w *wire) until(d time.Duration) { _ = w.SetDeadline(time.Now().Add(d)) }
