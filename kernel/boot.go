package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/meter"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/kernel/internal/child"
	"github.com/solo-os/solo/kernel/internal/home"
	"github.com/solo-os/solo/kernel/internal/supervise"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// bootTimeout bounds opening the bus and reading the capability chain.
const bootTimeout = 60 * time.Second

// kernel is a running kernel.
type kernel struct {
	c     Config
	home  *home.Home
	log   *slog.Logger
	out   io.Writer
	begin time.Time
	ctx   context.Context // ends when all of Solo is to end
	stop  context.CancelFunc
	grace atomic.Int64 // of the shutdown, nanoseconds

	bus      *embed.Server
	fence    *fence.Fence
	nc       *nats.Conn
	id       string
	audit    *auditlog.Recorder
	recorder atomic.Pointer[auditlog.Recorder] // audit, for the server's goroutines: nil until it works
	server   *rpc.Server
	metrics  *metrics
	auditing context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	waiting  map[string]chan map[string]string // mu; by component id: who is awaited to be ready
	listen   map[string]string                 // mu; addresses in use, kept across restarts of their component
	children map[string]member                 // mu; by the id of the identity
	opened   bool                              // mu; user space has been opened
}

// left is how long a shutdown may take.
func (k *kernel) left() time.Duration { return time.Duration(k.grace.Load()) }

// open starts the bus, reads the capabilities and serves components.
func (k *kernel) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	k.fence = fence.New(fence.Options{Log: k.log, Ready: k.onReady, Refused: k.onRefused, Hung: k.onHung})
	k.bus, err = embed.Start(embed.Options{
		Addr: k.c.NATS, Socket: filepath.Join(k.home.Dir, "run", "bus.sock"), Name: k.home.Node, StoreDir: filepath.Join(k.home.Dir, "bus"),
		Door: door.Options{Own: k.fence.Known, Serves: k.fence.Serves, Admit: k.admit(), Refused: k.onTurnedAway},
		Auth: k.fence, Log: k.log, Violation: k.onViolation,
	})
	if err != nil {
		return err
	}
	if err := k.recallClock(); err != nil {
		k.bus.Stop()
		return err
	}
	k.fence.Attach(k.bus)
	k.metrics = newMetrics(k.bus, k.fence)
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if err := k.prepare(ctx); err != nil {
		return err
	}
	if k.nc, k.id, err = k.dial(ctx, subject.Kernel); err != nil {
		return err
	}
	js, err := jetstream.New(k.nc)
	if err != nil {
		return err
	}
	if err := k.load(ctx, js); err != nil {
		return err
	}
	if err := k.fence.Serve(ctx, k.nc); err != nil {
		return err
	}
	k.audit = auditlog.New(js, subject.Kernel, k.fence.Table(), k.log)
	k.recorder.Store(k.audit)
	auditing, stop := context.WithCancel(context.WithoutCancel(ctx))
	k.auditing = stop
	k.wg.Go(func() { k.audit.Run(auditing) })
	k.wg.Go(func() { k.noteClock(auditing) })
	if _, err := k.nc.Subscribe(subject.ControlServing(k.id), k.onControl); err != nil {
		return err
	}
	return k.serve()
}

// prepare makes streams and buckets, as an identity that exists for nothing else.
func (k *kernel) prepare(ctx context.Context) error {
	nc, id, err := k.dial(ctx, fence.Bootstrap)
	if err != nil {
		return err
	}
	defer func() {
		nc.Close()
		k.fence.Dismiss(context.WithoutCancel(ctx), id)
	}()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return stream.Ensure(ctx, js)
}

// load brings the capability chain into the fence, verified against its head.
func (k *kernel) load(ctx context.Context, js jetstream.JetStream) error {
	pub, err := k.home.Chain.PublicKey()
	if err != nil {
		return err
	}
	head, found, err := caps.LoadHead(k.home.Head(), pub)
	if err != nil {
		return refuse(err)
	}
	l, err := caps.Load(ctx, js, pub, head, k.fence.Load)
	if err != nil {
		return refuse(err)
	}
	// The head is written after the record: only the very first record can be without one.
	if !found && l.Sequence > 1 {
		return refuse(fmt.Errorf("%w: the store has %d records, and the file %s that names the last of them is gone", caps.ErrBroken, l.Sequence, k.home.Head()))
	}
	k.log.Debug("capabilities are read", "records", l.Sequence)
	return nil
}

func refuse(err error) error {
	if errors.Is(err, caps.ErrBroken) {
		return fmt.Errorf("user space stays closed: %w. Run `solo doctor`; %s", err, whatToDo)
	}
	return err
}

// dial connects with a fresh identity of a role.
func (k *kernel) dial(ctx context.Context, role string) (*nats.Conn, string, error) {
	id, seed, err := k.identity(ctx, role)
	if err != nil {
		return nil, "", err
	}
	nc, _, err := conn.Dial(ctx, conn.Options{Addr: k.bus.OwnAddr(), Seed: seed, Name: role, Reconnect: true})
	return nc, id, err
}

// identity makes one that the fence knows.
func (k *kernel) identity(ctx context.Context, role string) (id, seed string, err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return "", "", err
	}
	defer kp.Wipe()
	b, err := kp.Seed()
	if err != nil {
		return "", "", err
	}
	if id, err = kp.PublicKey(); err != nil {
		return "", "", err
	}
	return id, string(b), k.fence.Identify(ctx, id, fence.Identity{Role: role})
}

// spec is how one component is started.
func (k *kernel) spec(name string) supervise.Spec {
	s := supervise.Spec{Name: name, Restart: supervise.Permanent, Start: func(ctx context.Context) (supervise.Child, error) {
		c, err := k.start(ctx, name)
		if err != nil {
			return nil, err // a nil *Component in a Child would not be nil
		}
		return c, nil
	}}
	if name == subject.Deployer {
		s.StopTimeout = shutdownGrace // it drains services
	}
	return s
}

func (k *kernel) start(ctx context.Context, name string) (*child.Component, error) {
	id, seed, err := k.identity(ctx, name)
	if err != nil {
		return nil, err
	}
	ready := make(chan map[string]string, 1)
	k.mu.Lock()
	k.waiting[id] = ready
	listen := map[string]string{"grpc": k.c.GRPC, "http": k.c.HTTP, "metrics": k.c.Metrics}
	maps.Copy(listen, k.listen)
	k.mu.Unlock()
	ended := false // k.mu
	gone := func() {
		k.mu.Lock()
		delete(k.waiting, id)
		delete(k.children, id)
		ended = true
		k.mu.Unlock()
		k.fence.Dismiss(context.Background(), id)
	}
	boot := &kernelv1.ComponentBoot{
		Component: name, Seed: seed, KernelId: k.id, NatsAddr: k.bus.OwnAddr(), Node: k.home.Node, Home: k.home.Dir,
		Listen: listen, BootEpoch: k.home.Epoch, LogLevel: k.c.LogLevel,
	}
	if name == subject.Capmgr {
		chain, err := k.home.Chain.Seed()
		if err != nil {
			return nil, err
		}
		boot.RootId, boot.ChainSeed = k.home.RootID, string(chain)
	}
	o := child.Options{
		Path: filepath.Join(k.c.BinDir, "solo-"+name), Boot: boot, Env: environment(k.home.Dir), Output: k.out, Log: k.log, Ready: ready, Gone: gone,
		Alive: func(ctx context.Context) error { return k.ask(ctx, subject.ControlHealth, id) },
	}
	if name == subject.Deployer {
		// Its helpers outlive it, unless all of Solo is to end.
		o.Drain = func(ctx context.Context) error {
			if k.ctx.Err() == nil {
				return nil
			}
			return k.ask(ctx, subject.ControlDrain, id)
		}
	}
	c, err := child.Start(ctx, o)
	if err != nil {
		gone()
		return nil, err
	}
	k.mu.Lock()
	if !ended {
		k.children[id] = member{name, c}
	}
	k.mu.Unlock()
	k.log.Debug("component is ready", "child", name, "pid", c.PID())
	return c, nil
}

// member is a component that is ready.
type member struct {
	name string
	c    *child.Component
}

// onHung has a process killed that does not acknowledge changes: a component here, a helper by the
// deployer, which knows it. It is started again as if it had died by itself.
func (k *kernel) onHung(id string, _ fence.Identity) {
	k.mu.Lock()
	r, ours := k.children[id]
	deployer := ""
	for id, r := range k.children {
		if r.name == subject.Deployer {
			deployer = id
		}
	}
	k.mu.Unlock()
	switch {
	case ours:
		r.c.Kill()
	case deployer != "":
		if err := k.nc.Publish(subject.Control(subject.ControlEnd, deployer), []byte(id)); err != nil {
			k.log.Warn("a helper that hangs could not be told of", "id", id, "error", err)
		}
	}
}

// environment is what components get: nothing secret, and enough to find the Go toolchain.
func environment(home string) []string {
	env := []string{"SOLO_HOME=" + home}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR", "GOROOT", "GOCACHE", "GOMODCACHE", "GOCOVERDIR", "GOTRACEBACK", "GOMEMLIMIT", "TZ", "LANG",
			"SOLO_GO", "SOLO_BUILD_CACHE", "SOLO_WARM_BUILDS", "SOLO_GRPC_PLAINTEXT", "SOLO_METRICS_PLAINTEXT",
			"SOLO_GRPC_TLS_CERT", "SOLO_GRPC_TLS_KEY", "SOLO_GRPC_TLS_CLIENT_CA", "SOLO_GATEWAY_CONNECTIONS", "SOLO_GATEWAY_IDLE":
			env = append(env, e)
		case check.Variable:
			if check.Switchable {
				env = append(env, e)
			}
		}
	}
	return env
}

// ask sends a control request and waits for any answer.
func (k *kernel) ask(ctx context.Context, op, id string) error {
	b, err := proto.Marshal(&kernelv1.HealthRequest{})
	if err != nil {
		return err
	}
	_, err = k.nc.RequestWithContext(ctx, subject.Control(op, id), b)
	return err
}

func (k *kernel) onReady(id string, _ fence.Identity, addresses map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch := k.waiting[id]
	if ch == nil {
		return
	}
	delete(k.waiting, id)
	maps.Copy(k.listen, addresses)
	ch <- addresses
}

// ready is told by the supervisor whenever all components run.
func (k *kernel) ready() {
	k.mu.Lock()
	first := !k.opened
	k.opened = true
	a := maps.Clone(k.listen)
	k.mu.Unlock()
	a["nats"] = k.bus.Addr()
	k.fence.Open(true)
	if err := noteOpen(k.home); err != nil {
		k.log.Error("an old note that user space is closed cannot be removed", "file", k.home.Closed(), "error", err)
	}
	if err := writeAddresses(k.home, a); err != nil {
		k.log.Error("where Solo listens cannot be written", "file", k.home.Addresses(), "error", err)
	}
	if !first {
		k.log.Info("all components run again")
		return
	}
	took := time.Since(k.begin)
	k.log.Info("ready", "took_ms", took.Milliseconds(), "grpc", a["grpc"], "nats", a["nats"], "metrics", a["metrics"])
	if k.c.Banner {
		banner(k.out, k.c, k.home, a, took)
	}
}

func (k *kernel) down(name string, err error) {
	k.metrics.restarts.WithLabelValues(name).Inc()
	e := auditlog.Entry{Holder: k.id, Event: "component-ended", Object: name, Attributes: map[string]string{"error": fmt.Sprint(err)}}
	k.wg.Go(func() { // recorded beside the restart, not before it
		if err := k.audit.Fact(context.Background(), e); err != nil {
			k.log.Warn("the end of a component could not be recorded", "child", name, "error", err)
		}
	})
}

// onViolation counts what the server refused.
func (k *kernel) onViolation(v embed.Violation) {
	id := k.fence.ID(v.CID)
	r := k.recorder.Load()
	if id == "" || r == nil {
		return
	}
	op := "publish"
	switch {
	case v.Subscribe:
		op = "subscribe"
	case v.Reply:
		op = "reply"
	}
	k.metrics.violations.WithLabelValues(op).Inc()
	r.Count(id, op, v.Subject, "SERVER")
}

// onRefused counts keys that were not let in. Without an id no key was proven, and what the connection
// said of itself is nobody's deed.
func (k *kernel) onRefused(id, reason string) {
	if r := k.recorder.Load(); r != nil {
		if id == "" || reason == gate.Unknown.String() {
			id = "-" // anybody can make keys that nobody knows: they are counted together
		}
		k.metrics.refused.WithLabelValues(reason).Inc()
		r.Count(id, "connect", "-", reason)
	}
}

// admit holds calls to the budgets of those who make them.
func (k *kernel) admit() func(id string, subject []byte) error {
	m := meter.New(k.fence.Table())
	return func(id string, _ []byte) error { return m.Admit(id) }
}

// onTurnedAway counts what the door in front of the bus did not let through.
func (k *kernel) onTurnedAway(x door.Refusal) {
	r := k.recorder.Load()
	if r == nil {
		return
	}
	k.metrics.turnedAway.WithLabelValues(x.What).Add(float64(x.Count))
	for range x.Count {
		r.Count(x.Holder, "door", x.Address, strings.ToUpper(x.What))
	}
}

// close stops what open began.
func (k *kernel) close() {
	if err := os.Remove(k.home.Addresses()); err != nil && !errors.Is(err, os.ErrNotExist) {
		k.log.Warn("the addresses could not be removed", "error", err)
	}
	if k.server != nil {
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		k.server.Close(end)
		cancel()
	}
	if k.auditing != nil {
		k.auditing()
	}
	k.wg.Wait()
	k.fence.Close()
	if k.nc != nil {
		k.nc.Close()
	}
	k.bus.Stop()
}
