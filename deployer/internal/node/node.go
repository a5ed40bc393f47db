// Package node keeps the helper processes of one node: the keeper, and a runner for each namespace
// that has something to run. It starts them with identities that the fence has admitted, adopts those
// that a deployer before this one left running, ends those that should not be, and starts the keeper
// again when it dies; the loss of a runner is told to the owner, who asks for a new one when there is
// something to place. Helpers outlive this process, unless it drains them.
//
// A process is known by pid and start time, never by pid alone. What happens in runners is told in
// order, one runner's events one after another; the handler must not wait long.
//
// Locks: Node.mu is a leaf.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// Fence gives helper processes their place on the bus and takes it away.
type Fence interface {
	Admit(ctx context.Context, id, role, namespace string) error
	Dismiss(ctx context.Context, id string) error
}

// Events hears what happens. Its methods are called from the goroutine that follows the helper.
type Events interface {
	// Inventory is what a runner holds, first after every attachment.
	Inventory(namespace string, inv *nodev1.RunnerInventory)
	// Event is anything else that a runner tells.
	Event(namespace string, ev *nodev1.RunnerEvent)
	// Down says that a namespace's runner is dead, and all it held with it.
	Down(namespace string)
	// Keeper is what the keeper complains about; service may be empty.
	Keeper(service, message string)
}

// Options of a Node.
type Options struct {
	// Home is SOLO_HOME: sockets and records are in its run folder.
	Home string
	// Dir is the deployer's own directory below it.
	Dir string
	// BinDir holds solo-runner and solo-keeper.
	BinDir string
	// Name of the node.
	Name string
	// NatsAddr, KernelID and BootEpoch are the kernel's.
	NatsAddr, KernelID string
	BootEpoch          uint64
	Fence              Fence
	Events             Events
	Log                *slog.Logger
	// Spares is how many runners wait pre-started for a namespace.
	Spares int
}

// Node is safe for concurrent use.
type Node struct {
	o      Options
	run    string
	epochs *epochs
	ctx    context.Context // of all that follows helpers
	stop   context.CancelFunc
	wg     sync.WaitGroup // followers
	reap   sync.WaitGroup // collectors of children
	fill   chan struct{}  // woken when a spare was taken

	mu      sync.Mutex
	runners map[string]*Runner // mu
	spares  []*child           // mu
	keeper  *keeper            // mu; nil while there is none
	turn    chan struct{}      // mu; closed when keeper changes
	delays  map[string]*delay  // mu; by namespace, "" for the keeper
	closing bool               // mu
}

// Start adopts what runs, starts the keeper, and returns once it serves.
func Start(ctx context.Context, o Options) (*Node, error) {
	n := &Node{
		o: o, run: filepath.Join(o.Home, "run"), fill: make(chan struct{}, 1),
		runners: map[string]*Runner{}, turn: make(chan struct{}), delays: map[string]*delay{},
	}
	for _, d := range []string{n.run, filepath.Join(o.Dir, "log"), n.CacheDir(), filepath.Join(o.Dir, "state"), filepath.Join(o.Dir, "work")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if n.epochs, err = openEpochs(filepath.Join(o.Dir, "epoch"), o.BootEpoch); err != nil {
		return nil, err
	}
	n.ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	old := n.adopt(ctx)
	n.wg.Go(func() { n.keepKeeper(old) })
	n.wg.Go(n.keepSpares)
	if _, err := n.Keeper(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// CacheDir is where compiled modules are.
func (n *Node) CacheDir() string { return filepath.Join(n.o.Dir, "cache") }

func (n *Node) keeperSocket() string { return filepath.Join(n.run, "k.sock") }

// adopt takes over the helpers that are alive and attach; the others are killed. It returns the
// keeper among them, or nil, after every adopted runner has told what it holds.
func (n *Node) adopt(ctx context.Context) (old *record) {
	files, _ := filepath.Glob(filepath.Join(n.run, "helper-*.json")) // the pattern is well-formed
	slices.Sort(files)
	var adopted []*Runner
	for _, f := range files {
		rec, err := readRecord(f)
		if err != nil {
			n.o.Log.Warn("a helper's record is unreadable", "error", err)
			_ = os.Remove(f)
			continue
		}
		if !rec.alive() {
			n.dismiss(rec)
			continue
		}
		if err := n.o.Fence.Admit(ctx, rec.ID, rec.Kind, rec.Namespace); err != nil {
			n.o.Log.Warn("a helper of before cannot be admitted", "kind", rec.Kind, "namespace", rec.Namespace, "error", err)
			(&process{n: n, rec: rec}).kill()
			continue
		}
		if rec.Kind == kindKeeper {
			old = &rec
			continue
		}
		adopted = append(adopted, n.begin(rec.Namespace, &rec))
	}
	for _, r := range adopted {
		select {
		case <-r.ready:
			n.o.Log.Info("adopted a runner", "namespace", r.namespace, "error", r.err)
		case <-ctx.Done():
		}
	}
	return old
}

// Close leaves the helpers running for the next deployer and ends everything else.
func (n *Node) Close() {
	n.mu.Lock()
	n.closing = true
	spares := n.spares
	n.spares = nil
	n.mu.Unlock()
	n.stop()
	n.wg.Wait()
	for _, c := range spares {
		n.discard(c)
	}
}

// Drain ends all helpers: runners finish what is under way, the keeper brings its state to the
// bucket, within the grace period; then what is left is killed. Close afterwards.
func (n *Node) Drain(ctx context.Context, grace time.Duration) {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range n.Runners() {
		wg.Go(func() {
			if err := r.Drain(ctx, grace*2/3); err != nil {
				n.o.Log.Warn("a runner did not drain", "namespace", r.namespace, "error", err)
			}
			if r.proc != nil {
				r.proc.end(ctx)
			}
		})
	}
	wg.Wait()
	n.mu.Lock()
	k := n.keeper
	n.mu.Unlock()
	if k != nil {
		if _, err := k.Flush(ctx, &nodev1.FlushRequest{}); err != nil {
			n.o.Log.Warn("not all state reached the bucket; the journals have it", "error", err)
		}
		k.proc.end(ctx)
	}
}

// delay spaces the starts of what dies again and again.
type delay struct {
	wait  time.Duration
	since time.Time
}

const (
	firstDelay = 20 * time.Millisecond
	maxDelay   = 5 * time.Second
	// stable is how long a helper must live for its past to be forgotten.
	stable = 10 * time.Second
)

// backoff waits for as long as it takes before another start under this name.
func (n *Node) backoff(ctx context.Context, name string) {
	n.mu.Lock()
	d := n.delays[name]
	now := time.Now()
	switch {
	case d == nil:
		n.delays[name] = &delay{since: now}
		n.mu.Unlock()
		return
	case now.Sub(d.since) > d.wait+stable:
		d.wait = 0
	default:
		d.wait = min(max(2*d.wait, firstDelay), maxDelay)
	}
	d.since = now
	wait := d.wait
	n.mu.Unlock()
	if wait > 0 {
		pause(ctx, wait)
	}
}

// keepSpares keeps pre-started runners.
func (n *Node) keepSpares() {
	for n.ctx.Err() == nil {
		n.mu.Lock()
		missing := !n.closing && len(n.spares) < n.o.Spares
		n.mu.Unlock()
		if !missing {
			select {
			case <-n.ctx.Done():
			case <-n.fill:
			}
			continue
		}
		c, err := n.spawn(kindRunner)
		if err != nil {
			n.o.Log.Error("no runner can be started in advance", "error", err)
			pause(n.ctx, time.Second)
			continue
		}
		n.mu.Lock()
		keep := !n.closing
		if keep {
			n.spares = append(n.spares, c)
		}
		n.mu.Unlock()
		if !keep {
			n.discard(c)
		}
	}
}

// takeSpare returns a runner that waits for its namespace, started in advance if there is one.
func (n *Node) takeSpare() (*child, error) {
	for {
		n.mu.Lock()
		if len(n.spares) == 0 {
			n.mu.Unlock()
			return n.spawn(kindRunner)
		}
		c := n.spares[0]
		n.spares = slices.Delete(n.spares, 0, 1)
		n.mu.Unlock()
		select {
		case n.fill <- struct{}{}:
		default:
		}
		select {
		case <-c.dead:
			continue
		default:
			return c, nil
		}
	}
}

// Runners are those that are attached, by namespace.
func (n *Node) Runners() []*Runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*Runner
	for _, r := range n.runners {
		if r.attached() {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *Runner) int { return strings.Compare(a.namespace, b.namespace) })
	return out
}

// Runner returns the namespace's runner, started if there is none.
func (n *Node) Runner(ctx context.Context, namespace string) (*Runner, error) {
	r := n.begin(namespace, nil)
	if r == nil {
		return nil, fault.Unavailable(time.Second, "this node is shutting down")
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		return nil, fault.Unavailable(time.Second, "the runner of namespace %s is still starting", namespace).Because(ctx.Err())
	}
	if r.err != nil {
		return nil, fault.Unavailable(time.Second, "the runner of namespace %s does not start", namespace).Because(r.err)
	}
	return r, nil
}

// begin returns the namespace's runner, or makes one, from a process that runs already if old is not
// nil. It returns nil when the node is closing.
func (n *Node) begin(namespace string, old *record) *Runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.runners[namespace]; r != nil {
		return r
	}
	if n.closing {
		return nil
	}
	r := &Runner{n: n, namespace: namespace, ready: make(chan struct{})}
	n.runners[namespace] = r
	n.wg.Go(func() { r.live(old) })
	return r
}

// over forgets a runner that has ended.
func (n *Node) over(r *Runner) (closing bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.runners[r.namespace] == r {
		delete(n.runners, r.namespace)
	}
	return n.closing
}

// End kills the helper with an id, which hangs and was cut off from the bus; another follows it as when it
// dies by itself. It does not wait for that.
func (n *Node) End(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var hung *process
	for _, r := range n.runners {
		if r.attached() && r.proc.rec.ID == id {
			hung = r.proc
		}
	}
	if n.keeper != nil && n.keeper.proc.rec.ID == id {
		hung = n.keeper.proc
	}
	if hung == nil {
		return // it has ended, or starts and is given up by who starts it
	}
	if err := hung.rec.signal(syscall.SIGKILL); err == nil {
		n.o.Log.Warn("killed a helper that hangs", "kind", hung.rec.Kind, "namespace", hung.rec.Namespace, "pid", hung.rec.PID)
	}
}

// HelperMemory is the resident size of the keeper and of runners that wait, in bytes.
func (n *Node) HelperMemory() (sum uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.spares {
		sum += rss(c.rec.PID)
	}
	if n.keeper != nil {
		sum += rss(n.keeper.proc.rec.PID)
	}
	return sum
}

// Keeper returns the keeper once there is one.
func (n *Node) Keeper(ctx context.Context) (nodev1.KeeperClient, error) {
	for {
		n.mu.Lock()
		k, turn := n.keeper, n.turn
		n.mu.Unlock()
		if k != nil {
			return k, nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, fault.Unavailable(time.Second, "the state keeper does not start").Because(ctx.Err())
		case <-n.ctx.Done():
			return nil, fault.Unavailable(time.Second, "this node is shutting down")
		}
	}
}

type keeper struct {
	nodev1.KeeperClient
	proc *process
}

// setKeeper shows a keeper, or that there is none.
func (n *Node) setKeeper(k *keeper) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keeper = k
	close(n.turn)
	n.turn = make(chan struct{})
}

// keepKeeper keeps one keeper, beginning with an adopted one.
func (n *Node) keepKeeper(old *record) {
	for n.ctx.Err() == nil {
		n.mu.Lock()
		closing := n.closing
		n.mu.Unlock()
		if closing {
			<-n.ctx.Done()
			return
		}
		if err := n.keeperLife(old); err != nil && n.ctx.Err() == nil {
			n.o.Log.Error("the state keeper does not start", "error", err)
		}
		old = nil
	}
}

func (n *Node) keeperLife(old *record) error {
	var p *process
	var err error
	if old != nil {
		p, err = n.process(*old, nil)
	} else {
		n.backoff(n.ctx, "")
		p, err = n.start(n.ctx, func() (*child, error) { return n.spawn(kindKeeper) }, "")
	}
	if err != nil {
		return err
	}
	client := nodev1.NewKeeperClient(p.conn)
	p.follow(n.ctx, func(ctx context.Context, epoch uint64, attached func()) error {
		s, err := client.KeeperAttach(ctx, &nodev1.KeeperAttachRequest{DeployerEpoch: epoch, NatsAddr: n.o.NatsAddr})
		if err != nil {
			return err
		}
		for first := true; ; first = false {
			ev, err := s.Recv()
			if err != nil {
				return err
			}
			if first {
				attached()
				n.setKeeper(&keeper{client, p})
				continue
			}
			n.o.Events.Keeper(ev.GetService(), ev.GetMessage())
		}
	})
	n.setKeeper(nil)
	return nil
}

// start brings a new process to its socket.
func (n *Node) start(ctx context.Context, get func() (*child, error), namespace string) (*process, error) {
	c, err := get()
	if err != nil {
		return nil, err
	}
	if err := n.boot(ctx, c, namespace); err != nil {
		n.discard(c)
		return nil, err
	}
	p, err := n.process(c.rec, c.dead)
	if err != nil {
		n.discard(c)
		return nil, fmt.Errorf("%s: %w", c.rec.Kind, err)
	}
	return p, nil
}

var errClosing = errors.New("this node is shutting down")
