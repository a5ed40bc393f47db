// Package runner hosts the instances of one namespace.
//
// It promises: every message that reaches it is answered, by its deadline at the latest, unless this
// process dies; a message is checked by the gate when it arrives and again when its effect begins; an
// instance of a WASM service or a command runs one call at a time, an http process up to 32; messages
// of a placement begin in the order of their arrival and wait in a bounded mailbox, beyond which new
// ones are refused with the time after which to try again. What ends an instance in a call is that
// call's error alone, and a fresh instance takes the next call; ends of its own, and failed starts,
// count against the restart intensity of the manifest, with back-off, beyond which the placement has
// failed. Nothing a guest does ends this process.
//
// Locks: Runner.mu, then placement.mu, then slot.mu, then state's; none is held while a guest runs.
package runner

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/deployer/internal/native"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Runner holds the placements of a namespace.
type Runner struct {
	node      string
	namespace string
	workDir   string
	log       *slog.Logger
	hub       *hub
	table     *gate.Table
	engine    *engine.Engine
	compile   engine.Compiler
	procs     *native.Host
	keeper    nodev1.KeeperClient
	keeperCC  *grpc.ClientConn
	link      *helper.Link // KERNEL
	gateID    string
	guests    atomic.Int64 // calls that run guest code

	mu         sync.Mutex // guards what follows
	addr       string
	gate       *gate.Client
	placements map[string]*placement // by service and revision
	states     map[string]*state
	busy       map[string]chan struct{} // services being placed or removed
	draining   bool
}

// New makes a runner from its boot message. exe is this executable, for compiling.
func New(ctx context.Context, boot *nodev1.RunnerBoot, exe string, log *slog.Logger) (*Runner, error) {
	r := &Runner{
		node: boot.GetNode(), namespace: boot.GetNamespace(), log: log, hub: newHub(), table: gate.NewTable(), addr: boot.GetNatsAddr(),
		workDir:    filepath.Join(boot.GetWorkDir(), boot.GetNamespace()),
		placements: map[string]*placement{}, states: map[string]*state{}, busy: map[string]chan struct{}{},
	}
	id, err := conn.ID(boot.GetSeed())
	if err != nil {
		return nil, err
	}
	r.gateID = id
	if err := os.MkdirAll(r.workDir, 0o700); err != nil {
		return nil, err
	}
	if n, err := native.Reap(r.workDir); err != nil || n > 0 {
		log.Warn("a runner before this one left processes behind", "killed", n, "error", err)
	}
	cache, err := engine.OpenCache(boot.GetCacheDir(), 0)
	if err != nil {
		return nil, err
	}
	if r.engine, err = engine.New(ctx, cache); err != nil {
		return nil, err
	}
	r.compile = engine.Child{Exe: exe, Cache: cache}.Compile
	r.keeperCC, err = grpc.NewClient("unix:"+boot.GetKeeperSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(helper.MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 250 * time.Millisecond}, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, err
	}
	r.keeper = nodev1.NewKeeperClient(r.keeperCC)
	r.procs = native.NewHost()
	r.link = helper.NewLink(conn.Options{
		Addr: r.addr, Seed: boot.GetSeed(), Name: "runner/" + r.namespace, Found: func(*nats.Conn) { r.rejoin() }, Error: r.busError("gate"),
	}, log, r.join)
	return r, nil
}

// join registers this process as a gate on a new connection.
func (r *Runner) join(ctx context.Context, nc *nats.Conn, id string) error {
	r.mu.Lock()
	old := r.gate
	r.gate = nil
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	c, err := gate.Join(ctx, r.table, gate.ClientOptions{Conn: nc, ID: id, Name: "runner/" + r.namespace, Log: r.log})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = c
	return nil
}

func (r *Runner) rejoin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gate != nil {
		r.gate.Rejoin()
	}
}

// busError logs what a connection's server complains about.
func (r *Runner) busError(link string) func(*nats.Conn, *nats.Subscription, error) {
	return func(_ *nats.Conn, s *nats.Subscription, err error) {
		subj := ""
		if s != nil {
			subj = s.Subject
		}
		r.log.Warn("bus", "link", link, "subject", subj, "error", err)
	}
}

func (r *Runner) address() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr
}

// moveTo leads every connection to another address of the bus.
func (r *Runner) moveTo(addr string) {
	if addr == "" {
		return
	}
	r.mu.Lock()
	r.addr = addr
	list := r.list()
	r.mu.Unlock()
	r.link.Move(addr)
	for _, p := range list {
		p.move(addr)
	}
}

// list returns the placements. r.mu is held.
func (r *Runner) list() []*placement {
	out := make([]*placement, 0, len(r.placements))
	for _, p := range r.placements {
		out = append(out, p)
	}
	return out
}

func key(service string, revision uint64) string {
	return service + "@" + strconv.FormatUint(revision, 10)
}

// claim waits for its turn with a service: one placing or removing runs at a time.
func (r *Runner) claim(ctx context.Context, service string) (release func(), err error) {
	for {
		r.mu.Lock()
		turn, taken := r.busy[service]
		if !taken {
			mine := make(chan struct{})
			r.busy[service] = mine
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.busy, service)
				r.mu.Unlock()
				close(mine)
			}, nil
		}
		r.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// place starts a placement; see the Runner contract.
func (r *Runner) place(ctx context.Context, req *nodev1.PlaceRequest) (*placement, error) {
	ns, _, _ := strings.Cut(req.GetService(), "/")
	if ns != r.namespace {
		return nil, fault.Invalid("service", "%q is not of namespace %s, which this runner holds", req.GetService(), r.namespace)
	}
	release, err := r.claim(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	defer release()
	r.mu.Lock()
	old, draining := r.placements[key(req.GetService(), req.GetRevision())], r.draining
	st := r.states[req.GetService()]
	if st == nil {
		st = newState(r.keeper, req.GetService())
		r.states[req.GetService()] = st
	}
	r.mu.Unlock()
	if draining {
		return nil, fault.New(codes.Unavailable, fault.ReasonShuttingDown, "the runner of %s is ending", r.namespace).Retry(time.Second)
	}
	if old != nil {
		if old.epoch == req.GetEpoch() {
			return old, nil
		}
		if old.epoch > req.GetEpoch() {
			return nil, fault.New(codes.FailedPrecondition, fault.ReasonEpochFenced, "revision %d of %s runs with the newer epoch %d", old.revision, old.service, old.epoch)
		}
		r.forget(old)
		old.end(ctx, time.Second)
	}
	p, err := r.newPlacement(ctx, req)
	if err != nil {
		return nil, err
	}
	if _, _, err := r.link.Wait(ctx); err != nil {
		p.release()
		return nil, fault.Unavailable(time.Second, "the runner of %s has not reached the bus", r.namespace).Because(err)
	}
	p.state = st
	st.claim(req.GetEpoch(), req.GetManifest())
	r.mu.Lock()
	r.placements[key(p.service, p.revision)] = p
	r.mu.Unlock()
	if err := p.begin(ctx); err != nil {
		r.forget(p)
		return nil, err
	}
	return p, nil
}

// forget takes a placement off the list.
func (r *Runner) forget(p *placement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.placements[key(p.service, p.revision)] == p {
		delete(r.placements, key(p.service, p.revision))
	}
}

// remove drains and ends a placement; that it is not there is no error.
func (r *Runner) remove(ctx context.Context, service string, revision uint64, grace time.Duration) (uint32, error) {
	release, err := r.claim(ctx, service)
	if err != nil {
		return 0, err
	}
	defer release()
	r.mu.Lock()
	p := r.placements[key(service, revision)]
	r.mu.Unlock()
	if p == nil {
		return 0, nil
	}
	cut := p.end(ctx, grace)
	r.forget(p)
	return cut, r.settleState(ctx, service)
}

// settleState brings a service's state to the bucket when its last placement is gone.
func (r *Runner) settleState(ctx context.Context, service string) error {
	r.mu.Lock()
	st := r.states[service]
	for _, p := range r.placements {
		if p.service == service {
			st = nil
		}
	}
	if st != nil {
		delete(r.states, service)
	}
	r.mu.Unlock()
	if st == nil {
		return nil
	}
	if err := st.close(ctx, true); err != nil {
		// The journal has it, and the keeper goes on trying.
		r.log.Warn("state has not reached the bucket yet", "service", service, "error", err)
	}
	return nil
}

// find returns the placements of a service.
func (r *Runner) find(service string) []*placement {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*placement
	for _, p := range r.placements {
		if p.service == service {
			out = append(out, p)
		}
	}
	return out
}

// end stops everything within the grace period.
func (r *Runner) end(ctx context.Context, grace time.Duration) {
	r.mu.Lock()
	r.draining = true
	list := r.list()
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range list {
		wg.Go(func() {
			if _, err := r.remove(ctx, p.service, p.revision, grace); err != nil {
				r.log.Warn("a placement did not end in order", "service", p.service, "error", err)
			}
		})
	}
	wg.Wait()
}

// Close frees what New made, after everything has been stopped.
func (r *Runner) Close() error {
	r.mu.Lock()
	g := r.gate
	r.gate = nil
	r.mu.Unlock()
	if g != nil {
		g.Close()
	}
	r.link.Close()
	r.procs.Close()
	return errors.Join(r.engine.Close(context.Background()), r.keeperCC.Close())
}

// describe lists every placement.
func (r *Runner) describe() []*nodev1.PlacementState {
	r.mu.Lock()
	list := r.list()
	r.mu.Unlock()
	var out []*nodev1.PlacementState
	for _, p := range list {
		out = append(out, p.describe())
	}
	return out
}

// valid is used by tests and requests alike: a service's name in two parts.
func valid(service string) error {
	if _, err := subject.ParseService(service); err != nil {
		return fault.Invalid("service", "%v", err)
	}
	return nil
}
