// Package bustest is Solo's bus in a box, for tests of components: the real server with its
// accounts, the real fence with its leases and pushes, every stream and bucket, in a
// directory of its own on a free port. Identities of components, capabilities and
// connections of holders come on demand. Everything ends with the test.
package bustest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/subject"
)

// Node is the name of a World's node.
const Node = "test"

// limit bounds every step of a World that waits.
const limit = 20 * time.Second

// World is a bus for one test.
type World struct {
	// Home stands for SOLO_HOME; its path is short, for Unix sockets lie below it.
	Home string
	// Addr is host:port of the bus.
	Addr   string
	Server *embed.Server
	Fence  *fence.Fence
	// KernelID is the kernel's public key.
	KernelID string
	// Root is the first operator's handle. Its record is made by the first Grant, or by a
	// capability manager under test, which Boot gives the same id and chain key.
	Root Handle
	Log  *slog.Logger
	// Hung gets the ids of gates that hang, as long as there is room.
	Hung chan string

	chain nkeys.KeyPair
	seed  string // of chain
	store *nats.Conn
	js    jetstream.JetStream

	mu      sync.Mutex
	link    caps.Link                    // mu
	ready   map[string]map[string]string // mu; addresses by component
	changed chan struct{}                // mu; closed and replaced when ready changes

	refusals sync.Mutex        // a leaf: held on the server's own goroutines
	refused  []embed.Violation // refusals
	rejected []Refusal         // refusals
}

// Refusal is a connection that the fence did not let in; ID is empty where no key was proven.
type Refusal struct{ ID, Reason string }

// Handle is a key and its id.
type Handle struct{ Seed, ID string }

// NewHandle makes a key that nobody knows yet.
func NewHandle(t testing.TB) Handle {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return Handle{seedOf(t, kp), publicOf(t, kp)}
}

func seedOf(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	b, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func publicOf(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	s, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Start makes a world that ends with the test.
func Start(t testing.TB) *World {
	t.Helper()
	return StartDoor(t, door.Options{})
}

// StartDoor is Start with a door of one's own; its Own and Serves are the fence's all the same.
func StartDoor(t testing.TB, o door.Options) *World {
	t.Helper()
	home, err := os.MkdirTemp("", "solo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	w := &World{
		Home: home, Root: NewHandle(t), ready: map[string]map[string]string{}, changed: make(chan struct{}),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if w.chain, err = nkeys.CreateAccount(); err != nil {
		t.Fatal(err)
	}
	w.seed = seedOf(t, w.chain)
	w.Hung = make(chan string, 16)
	w.Fence = fence.New(fence.Options{Log: w.Log, Ready: w.onReady, Refused: w.onRefused, Hung: w.onHung})
	o.Own, o.Serves = w.Fence.Known, w.Fence.Serves
	w.Server, err = embed.Start(embed.Options{
		Addr: "127.0.0.1:0", Socket: filepath.Join(home, "bus.sock"), Door: o, Name: Node, StoreDir: filepath.Join(home, "bus"), Auth: w.Fence, Log: w.Log, Violation: w.onViolation,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Server.Stop)
	w.Addr = w.Server.Addr()
	w.Fence.Attach(w.Server)

	kernel, boot := NewHandle(t), NewHandle(t)
	w.KernelID = kernel.ID
	w.identify(t, kernel.ID, subject.Kernel)
	w.identify(t, boot.ID, fence.Bootstrap)
	kc := w.DialOwn(t, kernel)
	if err := w.Fence.Serve(t.Context(), kc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Fence.Close)
	js, err := jetstream.New(w.DialOwn(t, boot))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := stream.Ensure(ctx, js); err != nil {
		t.Fatal(err)
	}
	w.Fence.Dismiss(ctx, boot.ID)
	w.Fence.Open(true)
	return w
}

// maxViolations bounds what is remembered of a test that floods the bus.
const maxViolations = 1000

func (w *World) onViolation(v embed.Violation) {
	w.refusals.Lock()
	defer w.refusals.Unlock()
	if len(w.refused) < maxViolations {
		w.refused = append(w.refused, v)
	}
}

func (w *World) onHung(id string, _ fence.Identity) {
	select {
	case w.Hung <- id:
	default:
	}
}

func (w *World) onRefused(id, reason string) {
	w.refusals.Lock()
	defer w.refusals.Unlock()
	if len(w.rejected) < maxViolations {
		w.rejected = append(w.rejected, Refusal{id, reason})
	}
}

// Refusals are the connections that the fence has not let in so far, oldest first.
func (w *World) Refusals() []Refusal {
	w.refusals.Lock()
	defer w.refusals.Unlock()
	return slices.Clone(w.rejected)
}

// Violations are what the server has refused so far, oldest first.
func (w *World) Violations() []embed.Violation {
	w.refusals.Lock()
	defer w.refusals.Unlock()
	return slices.Clone(w.refused)
}

func (w *World) identify(t testing.TB, id, role string) {
	t.Helper()
	if err := w.Fence.Identify(t.Context(), id, fence.Identity{Role: role}); err != nil {
		t.Fatal(err)
	}
}

func (w *World) dial(t testing.TB, h Handle) *nats.Conn {
	t.Helper()
	nc, err := w.TryDial(t, h)
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// TryDial connects with a handle, or tells why the fence does not let it in.
func (w *World) TryDial(t testing.TB, h Handle) (*nats.Conn, error) {
	t.Helper()
	nc, _, err := conn.Dial(t.Context(), conn.Options{Addr: w.Addr, Seed: h.Seed, Name: t.Name()})
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// DialOwn connects over the Unix socket, where Solo's own processes do.
func (w *World) DialOwn(t testing.TB, h Handle) *nats.Conn {
	t.Helper()
	nc, _, err := conn.Dial(t.Context(), conn.Options{Addr: w.Server.OwnAddr(), Seed: h.Seed, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Dial connects with a handle.
func (w *World) Dial(t testing.TB, h Handle) *nats.Conn {
	t.Helper()
	return w.dial(t, h)
}
