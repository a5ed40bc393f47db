package door_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/proto/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// counter is the service that is called, ledger one that only a victim calls.
func counter() subject.Service { return subject.Service{Namespace: "acme", Name: "counter"} }
func ledger() subject.Service  { return subject.Service{Namespace: "acme", Name: "ledger"} }

// world is a bus with a door, a service behind it, and what the door has refused.
type world struct {
	*bustest.World
	t   testing.TB
	big atomic.Int64 // large answers given

	mu      sync.Mutex
	refused map[string]int // mu; by what
}

func newWorld(t testing.TB, o door.Options) *world {
	t.Helper()
	w := &world{t: t, refused: map[string]int{}}
	o.Refused = func(r door.Refusal) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused[r.What] += r.Count
	}
	w.World = bustest.StartDoor(t, o)
	return w
}

func (w *world) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused[what]
}

// serve answers the calls of the service as a runner does: over the Unix socket.
func (w *world) serve(f nats.MsgHandler) {
	w.t.Helper()
	w.serveAs(counter(), f)
}

func (w *world) serveAs(s subject.Service, f nats.MsgHandler) {
	w.t.Helper()
	h, _ := w.Endow(w.t, s.String(), 1)
	nc := w.DialOwn(w.t, h)
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // answers that come too late are refused
	if _, err := nc.QueueSubscribe(subject.CallServing(s), s.Queue(), f); err != nil {
		w.t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		w.t.Fatal(err)
	}
}

func echo(m *nats.Msg) { _ = m.Respond(m.Data) }

func call(h bustest.Handle) string { return subject.Call(counter(), "get", h.ID) }

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			w.t.Fatalf("not true in time: %s; refused %v", what, w.refused)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// raw is a client that speaks as it likes.
type raw struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// socket opens a connection and says nothing.
func (w *world) socket() *raw {
	w.t.Helper()
	c, err := net.Dial("tcp", w.Addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() }) // it may be closed already
	return &raw{c, w.t, bufio.NewReader(c)}
}

// connect is the CONNECT that authenticates this connection.
func (c *raw) connect(h bustest.Handle) string {
	c.t.Helper()
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(c.line(), "INFO ")), &info); err != nil {
		c.t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		c.t.Fatal(err)
	}
	kp, err := nkeys.FromSeed([]byte(h.Seed))
	if err != nil {
		c.t.Fatal(err)
	}
	sig, err := kp.Sign([]byte(info.Nonce))
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("CONNECT {\"nkey\":%q,\"sig\":%q,\"protocol\":1,\"verbose\":false,\"headers\":true}\r\n", h.ID, base64.RawURLEncoding.EncodeToString(sig))
}

func (c *raw) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) line() string {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	s, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q %v", s, err)
	}
	return strings.TrimRight(s, "\r\n")
}

// rest is all that comes until the connection ends.
func (c *raw) rest() string {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	b, _ := io.ReadAll(c.r) // cut off is one way to end
	return string(b)
}

// identify makes a key that of a component.
func (w *world) identify(h bustest.Handle) {
	w.t.Helper()
	if err := w.Fence.Identify(w.t.Context(), h.ID, fence.Identity{Role: subject.Gateway}); err != nil {
		w.t.Fatal(err)
	}
}
