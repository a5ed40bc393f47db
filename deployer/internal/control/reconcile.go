package control

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// sweepEvery is how often everything is looked at, changed or not.
	sweepEvery = 10 * time.Second
	// givingUp is how many times in a row a service may fail to start before it is FAILED.
	givingUp = 3
	// idleRounds is for how many sweeps a runner may hold nothing before it is ended.
	idleRounds = 6
)

// dirty is the set of services to look at.
type dirty struct {
	mu   sync.Mutex
	set  map[string]bool // mu
	wake chan struct{}
}

func newDirty() *dirty { return &dirty{set: map[string]bool{}, wake: make(chan struct{}, 1)} }

func (d *dirty) add(names ...string) {
	if len(names) == 0 {
		return
	}
	d.mu.Lock()
	for _, n := range names {
		d.set[n] = true
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirty) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Sorted(maps.Keys(d.set))
	clear(d.set)
	return out
}

// tries counts failed starts in a row.
type tries struct {
	mu sync.Mutex
	m  map[string]int // mu
}

func newTries() *tries { return &tries{m: map[string]int{}} }

func (t *tries) failed(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[name]++
	return t.m[name]
}

func (t *tries) any(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[name] > 0
}

func (t *tries) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, name)
}

// reconcile looks at what has changed at once, and at everything now and then. It never waits for a
// service itself.
func (c *Controller) reconcile(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	s := newSchedule()
	looked, aged := make(chan look), make(chan string)
	var g errgroup.Group     // bounded by the schedule
	var later errgroup.Group // waits of services that are looked at again
	defer func() {
		_ = g.Wait() // nothing in either returns an error
		_ = later.Wait()
	}()
	c.sweep(ctx)
	for {
		for _, name := range c.dirty.take() {
			s.add(name, c.late(name))
		}
		for name, ok := s.next(); ok && ctx.Err() == nil; name, ok = s.next() {
			g.Go(func() error {
				c.lookAt(ctx, name, &later, looked, aged)
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return
		case l := <-looked:
			s.done(l.name, l.slow)
		case name := <-aged:
			s.aged(name)
		case <-c.dirty.wake:
		case <-t.C:
			c.sweep(ctx)
			c.endIdle(ctx)
		}
	}
}

// look is the end of a look at a service.
type look struct {
	name string
	slow bool
}

// late tells whether a service is known to start badly: it failed to, or was still starting when an
// earlier deployer ended.
func (c *Controller) late(name string) bool {
	e, ok := c.book.get(name)
	return c.tries.any(name) || ok && wanted(e.reg) && e.reg.GetState() == solov1.ServiceState_SERVICE_STATE_STARTING
}

// lookAt looks at one service, and says so when it has taken slowStart and when it is over.
func (c *Controller) lookAt(ctx context.Context, name string, later *errgroup.Group, looked chan<- look, aged chan<- string) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.settleOne(ctx, name, later)
	}()
	slow := time.NewTimer(slowStart)
	defer slow.Stop()
	l := look{name: name}
	select {
	case <-over:
	case <-slow.C:
		l.slow = true
		select {
		case aged <- name:
		case <-ctx.Done():
		}
		<-over
	}
	l.slow = l.slow || c.tries.any(name)
	select {
	case looked <- l:
	case <-ctx.Done():
	}
}

// busy is how long a service is left alone that an operation is working on.
const busy = 200 * time.Millisecond

// settleOne looks at one service, and has it looked at again if that is not the end of it.
func (c *Controller) settleOne(ctx context.Context, name string, later *errgroup.Group) {
	again := busy
	if unlock, ok := c.tryLock(name); ok {
		again = c.settle(ctx, name)
		unlock()
	}
	if again == 0 {
		return
	}
	later.Go(func() error {
		t := time.NewTimer(again)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
			c.dirty.add(name)
		}
		return nil
	})
}

// sweep marks everything that is registered or runs.
func (c *Controller) sweep(ctx context.Context) {
	if err := c.book.load(ctx); err != nil && ctx.Err() == nil {
		c.o.Log.Warn("the registrations could not be read again", "error", err)
	}
	c.dirty.add(c.book.names()...)
	for _, p := range c.actual.all() {
		c.dirty.add(p.GetService())
	}
}

// settle makes what runs of a service what should run. The service's lock is held. It returns when to
// look again, or 0.
func (c *Controller) settle(ctx context.Context, name string) (again time.Duration) {
	e, known := c.book.get(name)
	run := known && wanted(e.reg)
	if run && c.outlived(e.reg) {
		return c.expire(ctx, e)
	}
	var match *nodev1.PlacementState
	for _, p := range c.actual.of(name) {
		if run && p.GetRevision() == e.reg.GetRevision() && p.GetEpoch() == e.reg.GetEpoch() {
			match = p
			continue
		}
		c.o.Log.Info("ending a placement that should not be", "service", name, "revision", p.GetRevision(), "epoch", p.GetEpoch())
		c.remove(ctx, name, p.GetRevision(), 0)
	}
	switch {
	case !run:
		return 0
	case match != nil && match.GetFailed():
		c.failed(ctx, e, fault.New(codes.FailedPrecondition, fault.ReasonInstanceCrashed, "%s", match.GetLastError()))
		c.remove(ctx, name, match.GetRevision(), 0)
		return 0
	case match != nil:
		return c.confirm(ctx, e, match)
	}
	return c.revive(ctx, e)
}

// confirm registers that a placement runs whose deployer died, or lost the registry, before it could.
func (c *Controller) confirm(ctx context.Context, e entry, p *nodev1.PlacementState) time.Duration {
	if e.reg.GetState() == solov1.ServiceState_SERVICE_STATE_RUNNING {
		return 0
	}
	if !answers(p) {
		return time.Second
	}
	if _, err := c.running(ctx, e, nil, "running", ""); err != nil {
		return time.Second
	}
	return 0
}

// revive starts what should run and does not.
func (c *Controller) revive(ctx context.Context, e entry) time.Duration {
	name := e.reg.GetName()
	c.o.Log.Info("starting what should run", "service", name, "revision", e.reg.GetRevision())
	reg := proto.CloneOf(e.reg)
	if reg.GetState() != solov1.ServiceState_SERVICE_STATE_UPDATING {
		reg.State = solov1.ServiceState_SERVICE_STATE_STARTING
	}
	claimed, placed, err := c.start(ctx, always, reg, e.kv, event(reg, "starting", "it should run and did not"))
	if err == nil {
		c.tries.forget(name)
		if _, err := c.running(ctx, claimed, placed.GetEnforcement(), "running", "started again"); err != nil {
			return time.Second
		}
		return 0
	}
	if ctx.Err() != nil {
		return 0
	}
	n := c.tries.failed(name)
	c.o.Log.Warn("a service does not start", "service", name, "try", n, "error", err)
	if unavailable(err) {
		return min(time.Duration(n)*100*time.Millisecond, 5*time.Second)
	}
	if n < givingUp {
		return time.Duration(n*n) * 200 * time.Millisecond
	}
	c.tries.forget(name)
	if claimed.kv == 0 {
		claimed, _ = c.book.get(name)
		if claimed.reg == nil {
			return 0
		}
	}
	if old := interrupted(claimed.reg); old != nil {
		c.o.Log.Warn("an update that was interrupted goes back", "service", name, "outcome", c.goBack(ctx, claimed, old, err))
		return 0
	}
	c.failed(ctx, claimed, err)
	return 0
}

// interrupted is the revision to go back to when an update was cut off in the middle, or nil.
func interrupted(reg *kernelv1.Registration) *kernelv1.Revision {
	if reg.GetRollout().GetState() != solov1.RolloutState_ROLLOUT_STATE_RUNNING || reg.GetRollout().GetToRevision() != reg.GetRevision() {
		return nil
	}
	return revision(reg, reg.GetRollout().GetFromRevision())
}

// endIdle ends the runners that have held nothing for a while.
func (c *Controller) endIdle(ctx context.Context) {
	here := map[string]int{}
	for _, r := range c.node.Runners() {
		ns := r.Namespace()
		if c.actual.occupied(ns) || c.needed(ns) {
			continue
		}
		if here[ns] = c.idle[ns] + 1; here[ns] < idleRounds {
			continue
		}
		delete(here, ns)
		if err := r.Drain(ctx, time.Second); err != nil {
			c.o.Log.Warn("an idle runner does not end", "namespace", ns, "error", err)
		}
	}
	c.idle = here
}

// needed tells whether anything of a namespace should run.
func (c *Controller) needed(namespace string) bool {
	for _, n := range c.book.names() {
		if e, ok := c.book.get(n); ok && namespaceOf(n) == namespace && wanted(e.reg) {
			return true
		}
	}
	return false
}
