package rpc

import (
	"context"
	"io"
	"log/slog"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/gate"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; none takes that long.
const patience = 20 * time.Second

// world is a real server, a gate's table and one component on it.
type world struct {
	t     *testing.T
	addr  string
	table *gate.Table
	seq   uint64

	mu     sync.Mutex
	denied []gate.Decision // mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPayload: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	w := &world{t: t, addr: s.Addr().String(), table: gate.NewTable()}
	w.table.SetLease(math.MaxInt64)
	return w
}

func (w *world) conn() *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

func newID(t *testing.T) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	id, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// holder grants rules to a new id.
func (w *world) holder(rules ...string) Peer {
	w.t.Helper()
	id := newID(w.t)
	w.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{Id: id, Rules: rules, Kind: kernelv1.CapKind_CAP_KIND_HOLDER}}})
	return Peer{Conn: w.conn(), ID: id}
}

func (w *world) revoke(id string) {
	w.t.Helper()
	w.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: id}}})
}

func (w *world) apply(e *kernelv1.CapEvent) {
	w.t.Helper()
	w.seq++
	e.Sequence, e.Time = w.seq, timestamppb.Now()
	if _, err := w.table.Apply([]*kernelv1.CapEvent{e}); err != nil {
		w.t.Fatal(err)
	}
}

// serve starts a component; add registers its operations. It is closed with the test unless
// the test has closed it.
func (w *world) serve(o Options, add func(*Server)) *Server {
	w.t.Helper()
	o.Conn, o.Gate, o.Log = w.conn(), w.table, slog.New(slog.NewTextHandler(io.Discard, nil))
	if o.Component == "" {
		o.Component = subject.Registry
	}
	o.Denied = func(_ subject.System, d gate.Decision) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.denied = append(w.denied, d)
	}
	s, err := NewServer(o)
	if err != nil {
		w.t.Fatal(err)
	}
	add(s)
	if err := s.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close(canceled()) })
	return s
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

var acme = subject.Service{Namespace: "acme", Name: "billing"}

// await receives or fails.
func await[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing came", what)
	}
	return v
}
