package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/native"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// Defaults of a manifest, and bounds of a placement.
const (
	defaultMemory   = 64 << 20
	defaultMailbox  = 20_000
	defaultRestarts = 5
	defaultWithin   = 30 * time.Second
	startTimeout    = 30 * time.Second
	maxPayload      = abi.MaxPayload
	// maxMailboxBytes bounds the payloads that wait for one placement.
	maxMailboxBytes = 256 << 20
	// pendingCalls bounds what the client has received and not yet handed over, which takes no time:
	// what is dropped there is never answered, so it is far above what can come together.
	pendingCalls = 1 << 20
	// httpWorkers is how many calls an http process is given at a time.
	httpWorkers = 32
)

// placement is one revision of one service on this node.
type placement struct {
	r            *Runner
	service      string
	id           subject.Service
	revision     uint64
	revisionText string
	epoch        uint64
	manifest     *solov1.Manifest
	req          *nodev1.PlaceRequest
	memory       uint64
	ops          map[string]time.Duration
	opList       string
	native       bool // a process of its own
	perCall      bool // a fresh one for each call
	workers      int
	start        func(ctx context.Context, s *slot) (instance.Instance, error)
	release      func()
	cached       bool
	slots        []*slot
	state        *state
	mailbox      chan *call
	rate         *rate.Limiter // nil without a limit

	queued    atomic.Int64 // payload bytes in the mailbox
	running   atomic.Int64
	calls     atomic.Uint64
	errors    atomic.Uint64
	latency   atomic.Uint64 // microseconds, of answered calls
	throttled atomic.Int64  // Unix nanoseconds until which work is refused
	soft      atomic.Bool   // above the mailbox's soft mark
	grace     atomic.Int64  // nanoseconds, of the stop under way

	stop context.CancelFunc
	wg   sync.WaitGroup
	link *helper.Link // SERVICE

	mu      sync.Mutex // guards what follows
	calling *helper.Link
	serving bool
	conn    *nats.Conn // the connection that link showed last
	subs    []*nats.Subscription
	ends    []time.Time // restarts that count, newest last
	failed  bool
	lastErr string
	marks   map[string]time.Time // limit events told, by limit and mark
	closing bool
}

// newPlacement makes ready what a placement needs; nothing runs yet.
func (r *Runner) newPlacement(ctx context.Context, req *nodev1.PlaceRequest) (*placement, error) {
	id, err := subject.ParseService(req.GetService())
	if err != nil {
		return nil, fault.Invalid("service", "%v", err)
	}
	m := req.GetManifest()
	p := &placement{
		r: r, service: req.GetService(), id: id, revision: req.GetRevision(), epoch: req.GetEpoch(), manifest: m, req: req,
		revisionText: strconv.FormatUint(req.GetRevision(), 10), memory: m.GetLimits().GetMemoryBytes(),
		ops: map[string]time.Duration{}, workers: 1, release: func() {}, marks: map[string]time.Time{},
	}
	if p.memory == 0 {
		p.memory = defaultMemory
	}
	var names []string
	for _, op := range m.GetOperations() {
		p.ops[op.GetName()] = op.GetTimeout().AsDuration()
		names = append(names, op.GetName())
	}
	slices.Sort(names)
	p.opList = strings.Join(names, ", ")
	size := int(m.GetLimits().GetMailbox())
	if size == 0 {
		size = defaultMailbox
	}
	p.mailbox = make(chan *call, size)
	if n := m.GetLimits().GetCallsPerSecond(); n > 0 {
		p.rate = rate.NewLimiter(rate.Limit(n), int(n))
	}
	for i := range max(1, int(m.GetReplicas())) {
		p.slots = append(p.slots, newSlot(p, fmt.Sprintf("r%de%d-%d", p.revision, p.epoch, i)))
	}
	return p, p.prepare(ctx)
}

// prepare chooses how instances start.
func (p *placement) prepare(ctx context.Context) error {
	switch p.manifest.GetFormat() {
	case solov1.Format_FORMAT_WASM, solov1.Format_FORMAT_GO_SOURCE:
		m, cached, err := p.r.engine.Load(ctx, p.req.GetCodePath(), p.req.GetCodeSha256(), p.r.compile)
		if err != nil {
			return err
		}
		p.cached = cached
		p.release = func() {
			if err := m.Release(context.Background()); err != nil {
				p.r.log.Warn("unloading code", "service", p.service, "error", err)
			}
		}
		p.start = func(ctx context.Context, s *slot) (instance.Instance, error) {
			in, err := m.Instantiate(ctx, engine.InstanceConfig{
				MemoryBytes: p.memory, Env: p.manifest.GetEnv(), Args: p.manifest.GetArgs(), Host: s.host,
			})
			if err != nil {
				return nil, err // not a nil *engine.Instance in an interface
			}
			return in, nil
		}
		return nil
	case solov1.Format_FORMAT_BINARY:
		return p.prepareNative()
	}
	return fault.Invalid("manifest.format", "%s cannot be run", p.manifest.GetFormat())
}

func (p *placement) prepareNative() error {
	p.native = true
	config := func(s *slot) native.Config {
		return native.Config{
			Path: p.req.GetCodePath(), Args: p.manifest.GetArgs(), Env: p.manifest.GetEnv(), Service: p.service, Instance: s.id,
			Dir: filepath.Join(p.r.workDir, p.id.Name+"."+s.id), MemoryBytes: p.memory, Output: s.host.Output,
			Keep: a(p.manifest.GetLimits().GetActions().GetMemory()),
		}
	}
	switch p.manifest.GetProtocol() {
	case solov1.Protocol_PROTOCOL_UNSPECIFIED, solov1.Protocol_PROTOCOL_HTTP:
		p.workers = httpWorkers
		p.start = func(ctx context.Context, s *slot) (instance.Instance, error) {
			in, err := p.r.procs.StartHTTP(ctx, config(s))
			if err != nil {
				return nil, err
			}
			return in, nil
		}
	case solov1.Protocol_PROTOCOL_STDIO:
		p.perCall = true
		p.start = func(_ context.Context, s *slot) (instance.Instance, error) {
			in, err := p.r.procs.NewCommand(config(s))
			if err != nil {
				return nil, err
			}
			return in, nil
		}
	default:
		return fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "protocol %s is not offered by this version", p.manifest.GetProtocol()).
			Next("use protocol http or stdio")
	}
	return nil
}

// a tells whether an action lets an instance live above its memory limit.
func a(action solov1.LimitAction) bool {
	return action == solov1.LimitAction_LIMIT_ACTION_WARN || action == solov1.LimitAction_LIMIT_ACTION_THROTTLE
}

// enforcement says how limits hold for it.
func (p *placement) enforcement() []string {
	if p.native {
		return []string{"memory: sampled", "cpu: accounted"}
	}
	return []string{"memory: hard", "cpu: deadline"}
}

// begin starts every instance and then serves; after an error nothing of it is left.
func (p *placement) begin(ctx context.Context) error {
	run, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.link = helper.NewLink(conn.Options{
		Addr: p.r.address(), Seed: p.req.GetServingSeed(), Name: "service " + p.service, Error: p.r.busError("service " + p.service),
	}, p.r.log, p.up)
	first := make(chan error, len(p.slots))
	for _, s := range p.slots {
		p.wg.Go(func() { p.supervise(run, s, first) })
	}
	var errs error
	for range p.slots {
		if err := <-first; err != nil && errs == nil {
			errs = err
		}
	}
	if errs == nil {
		errs = p.checkHandlers(ctx)
	}
	if errs == nil {
		errs = p.serveCalls(ctx)
	}
	if errs != nil {
		p.end(ctx, 0)
		f := fault.From(errs)
		if c, ok := errors.AsType[*instance.Crash](errs); ok {
			p.record(p.slots[0], c)
		}
		return f
	}
	for _, s := range p.slots {
		p.changed(s, "started")
	}
	return nil
}

// serveCalls subscribes, once there is a connection.
func (p *placement) serveCalls(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	nc, _, err := p.link.Wait(ctx)
	if err != nil {
		return fault.Unavailable(time.Second, "the bus does not accept %s", p.service).Because(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = true
	if p.conn == nc && len(p.subs) > 0 {
		return nil
	}
	return p.subscribe(ctx, nc)
}

// up makes a new SERVICE connection useful.
func (p *placement) up(ctx context.Context, nc *nats.Conn, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn, p.subs = nc, nil
	if !p.serving {
		return nil
	}
	return p.subscribe(ctx, nc)
}

// subscribe listens for calls, and for those that a rollout maps to this revision. p.mu is held.
func (p *placement) subscribe(ctx context.Context, nc *nats.Conn) error {
	p.subs = nil
	for _, s := range []string{subject.CallServing(p.id), subject.RevisionServing(p.id, p.revision)} {
		sub, err := nc.QueueSubscribe(s, p.id.Queue(), func(m *nats.Msg) { p.onMessage(nc, m) })
		if err != nil {
			return err
		}
		if err := sub.SetPendingLimits(pendingCalls, 2*maxMailboxBytes); err != nil {
			return err
		}
		p.subs = append(p.subs, sub)
	}
	p.conn = nc
	return nc.FlushWithContext(ctx)
}

// callingLink is the CALLER connection, made on first use; nil when the service was granted nothing.
func (p *placement) callingLink() *helper.Link {
	if p.req.GetCallingSeed() == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calling == nil && !p.closing {
		p.calling = helper.NewLink(conn.Options{
			Addr: p.r.address(), Seed: p.req.GetCallingSeed(), Name: "calls of " + p.service, Error: p.r.busError("calls of " + p.service),
		}, p.r.log, nil)
	}
	return p.calling
}

// move leads the placement's connections to another address of the bus.
func (p *placement) move(addr string) {
	p.link.Move(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calling != nil {
		p.calling.Move(addr)
	}
}

// drain stops taking calls: what the server has sent already is still put in the mailbox.
func (p *placement) drain(ctx context.Context) {
	p.mu.Lock()
	subs := p.subs
	p.subs, p.serving = nil, false
	p.mu.Unlock()
	for _, s := range subs {
		gone := make(chan struct{})
		s.SetClosedHandler(func(string) { close(gone) })
		if s.Drain() != nil {
			continue // the connection is gone, and its messages with it
		}
		select {
		case <-gone:
		case <-ctx.Done():
		}
	}
}

// end drains for the grace period, stops every instance, answers what is left and returns how many
// calls were cut.
func (p *placement) end(ctx context.Context, grace time.Duration) (cut uint32) {
	drain, cancel := context.WithTimeout(ctx, grace)
	p.drain(drain)
	for drain.Err() == nil && (len(p.mailbox) > 0 || p.running.Load() > 0) {
		pause(drain, time.Millisecond)
	}
	cancel()
	cut = uint32(len(p.mailbox)) + uint32(max(0, p.running.Load()))
	p.grace.Store(int64(min(grace, time.Second)))
	p.stop()
	p.wg.Wait()
	p.refuseRest(fault.Unavailable(250*time.Millisecond, "%s is being stopped or replaced on this node", p.service))
	p.link.Close()
	p.mu.Lock()
	p.closing = true
	calling := p.calling
	p.mu.Unlock()
	if calling != nil {
		calling.Close()
	}
	p.release()
	return cut
}

// stopGrace is how long processes are given to end at a stop.
func (p *placement) stopGrace() time.Duration { return time.Duration(p.grace.Load()) }

// refuseRest answers whatever still waits.
func (p *placement) refuseRest(err error) {
	for {
		select {
		case c := <-p.mailbox:
			p.queued.Add(-int64(len(c.msg.Data)))
			if c.take() {
				p.calls.Add(1)
				p.errors.Add(1)
				p.reply(c, "", nil, err)
			}
		default:
			return
		}
	}
}

// giveUp parks the placement: supervision has restarted it too often.
func (p *placement) giveUp(why string, s *slot) {
	s.set(solov1.InstanceState_INSTANCE_STATE_FAILED)
	p.mu.Lock()
	was := p.failed
	p.failed, p.lastErr = true, why
	p.mu.Unlock()
	if was {
		return
	}
	for _, other := range p.slots {
		if other != s {
			other.tell("the placement failed", 0)
		}
	}
	p.r.hub.change(&nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Instance{Instance: &nodev1.InstanceChange{
		Service: p.service, Revision: p.revision, Instance: s.describe(p), Reason: why, PlacementFailed: true,
	}}})
	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.drain(ctx)
	p.refuseRest(fault.New(codes.Unavailable, fault.ReasonServiceNotRunning, "%s has failed: %s", p.service, why).Final())
}

// ended notes that an instance ended for good, as its restart type asks.
func (p *placement) ended(s *slot, reason string) {
	s.set(solov1.InstanceState_INSTANCE_STATE_STOPPED)
	p.changed(s, reason)
}

// changed tells the deployer about an instance.
func (p *placement) changed(s *slot, reason string) {
	p.r.hub.change(&nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Instance{Instance: &nodev1.InstanceChange{
		Service: p.service, Revision: p.revision, Instance: s.describe(p), Reason: reason,
	}}})
}

// limitEvery is the time within which one limit's mark is told once.
const limitEvery = time.Second

// limited tells that a limit was met.
func (p *placement) limited(limit, mark string, value, bound uint64, action string) {
	p.mu.Lock()
	key := limit + " " + mark
	told := time.Since(p.marks[key]) < limitEvery
	if !told {
		p.marks[key] = time.Now()
	}
	p.mu.Unlock()
	if told {
		return
	}
	p.r.hub.change(&nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Limit{Limit: &nodev1.LimitEvent{
		Service: p.service, Limit: limit, Mark: mark, Value: value, Bound: bound, Action: action,
	}}})
}

// record keeps how an instance ended.
func (p *placement) record(s *slot, c *instance.Crash) {
	d := &solov1.Crash{
		Time: timestamppb.Now(), Service: p.service, Instance: s.id, Revision: p.revision, Kind: c.Kind, Message: c.Message,
		Trace: c.Trace, Logs: s.host.tail.Lines(), MemoryBytes: c.MemoryBytes, MemoryLimitBytes: p.memory,
	}
	if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(d); err == nil {
		sum := sha256.Sum256(b)
		d.Id = hex.EncodeToString(sum[:])
	}
	p.mu.Lock()
	p.lastErr = c.Message
	p.mu.Unlock()
	if c.Kind == "memory" {
		p.limited("memory", "hard", d.GetMemoryBytes(), p.memory, "kill")
	}
	p.r.hub.change(&nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Crash{Crash: d}})
}

// describe is the placement as it stands.
func (p *placement) describe() *nodev1.PlacementState {
	d := &nodev1.PlacementState{Service: p.service, Revision: p.revision, Epoch: p.epoch}
	for _, s := range p.slots {
		d.Instances = append(d.Instances, s.describe(p))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d.Failed, d.LastError = p.failed, p.lastErr
	return d
}

// sample is what the placement uses and did.
func (p *placement) sample() *nodev1.PlacementSample {
	d := &nodev1.PlacementSample{
		Service: p.service, Revision: p.revision, MailboxDepth: uint32(len(p.mailbox)), Calls: p.calls.Load(), Errors: p.errors.Load(),
		LatencyUs: p.latency.Load(), MemoryLimitBytes: p.memory, StateBytes: p.state.size(),
	}
	for _, s := range p.slots {
		d.Instances = append(d.Instances, s.describe(p))
	}
	return d
}

func request(c *call) instance.Request {
	return instance.Request{Kind: abi.KindCall, Op: c.to.Op, Payload: c.msg.Data, Caller: c.to.ID}
}
