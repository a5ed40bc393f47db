// Package control carries out what holders ask of the deployer: deploy, update, roll back, kill; and
// keeps what should run (the registrations) and what does run (the placements in runners) the same,
// whatever dies.
//
// Operations on one service go one at a time; on different services they run side by side. An
// operation is on record (audit) before it takes effect. A deploy that fails before its code was
// placed leaves nothing; one whose code did not start leaves a FAILED registration that says why.
// Every start of a placement has a higher epoch and keys of its own, so what was started before
// can neither answer nor write any more.
//
// Lock order: a service's operation lock, then any mutex; mutexes are leaves.
package control

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/artifact"
	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/gobuild"
	"github.com/solo-os/solo/deployer/internal/logs"
	"github.com/solo-os/solo/deployer/internal/node"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc/codes"
)

// Compiler validates a module in a file and compiles it into the cache that runners load from,
// outside of this process; engine.Child is one.
type Compiler interface {
	Compile(ctx context.Context, path string) (*engine.Verdict, error)
}

// Options of a Controller.
type Options struct {
	Peer  rpc.Peer
	JS    jetstream.JetStream
	Table *gate.Table
	Audit *auditlog.Recorder
	Log   *slog.Logger
	// Metrics takes the deployer's series.
	Metrics prometheus.Registerer
	// Node is this node's name.
	Node      string
	Artifacts *artifact.Store
	Builder   *gobuild.Builder
	Compiler  Compiler
	Logs      *logs.Publisher
}

// Controller is safe for concurrent use once Run is running.
type Controller struct {
	o       Options
	node    *node.Node // set before Run
	idem    *idem.Store
	uploads *artifact.Uploads
	crashes *crashes
	metrics *metrics
	book    *book
	actual  *actual
	report  *reporter
	dirty   *dirty
	tries   *tries

	compiling chan struct{}
	lockMu    sync.Mutex
	locks     map[string]*lock  // lockMu
	seenMu    sync.Mutex        // guards what follows
	compiled  map[string]uint64 // initial memory of modules known to be compiled, by digest
	idle      map[string]int    // rounds in which a namespace's runner had nothing to do; Run's own
}

// New makes a controller. It implements node.Events; give it the node with Attach, then Run it.
func New(ctx context.Context, o Options) (*Controller, error) {
	c := &Controller{
		o: o, metrics: newMetrics(o.Metrics), book: newBook(o.Peer), actual: newActual(), dirty: newDirty(), tries: newTries(),
		uploads: artifact.NewUploads(o.Artifacts, artifact.UploadLimits{Line: line(o.Table), Live: func(id string) bool { return o.Table.Live(id) == gate.Allowed }}), compiling: make(chan struct{}, max(1, min(runtime.NumCPU(), 4))),
		locks: map[string]*lock{}, compiled: map[string]uint64{}, idle: map[string]int{},
	}
	c.report = newReporter(o.Peer, o.Node, c.actual, o.Log)
	var err error
	if c.idem, err = idem.Open(ctx, o.JS); err != nil {
		return nil, err
	}
	c.crashes, err = openCrashes(ctx, o.JS, o.Log)
	return c, err
}

// Attach loads the registrations and sets the node that places.
func (c *Controller) Attach(ctx context.Context, n *node.Node) error {
	c.node = n
	return c.book.load(ctx)
}

// Serve adds the operations to a server.
func (c *Controller) Serve(s *rpc.Server) {
	rpc.Handle(s, "deploy", c.Deploy)
	rpc.Handle(s, "update", c.Update)
	rpc.Handle(s, "rollback", c.Rollback)
	rpc.Handle(s, "kill", c.Kill)
	rpc.Handle(s, "upload", c.upload)
	rpc.Handle(s, "crashes", c.listCrashes)
	rpc.Handle(s, "sample", c.sample)
	rpc.Handle(s, "enforce", c.enforce)
	rpc.HandleStream(s, "logs", c.readLogs)
}

// Run reconciles, reports and cleans up until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.uploads.Run(ctx) })
	wg.Go(func() { c.report.run(ctx) })
	wg.Go(func() { c.crashes.run(ctx) })
	wg.Go(func() { c.reconcile(ctx) })
	wg.Wait()
}

// lock is one service's operation lock.
type lock struct {
	ch    chan struct{}
	users int
}

// lock waits for a service's turn, at most until ctx ends.
func (c *Controller) lock(ctx context.Context, name string) (unlock func(), err error) {
	l := c.user(name)
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; c.leave(name, l) }, nil
	case <-ctx.Done():
		c.leave(name, l)
		return nil, fault.New(codes.Aborted, fault.ReasonConflict, "another operation on %s is still under way", name).Retry(time.Second).Because(ctx.Err())
	}
}

// tryLock takes a service's turn if nobody has it.
func (c *Controller) tryLock(name string) (unlock func(), ok bool) {
	l := c.user(name)
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; c.leave(name, l) }, true
	default:
		c.leave(name, l)
		return nil, false
	}
}

func (c *Controller) user(name string) *lock {
	c.lockMu.Lock()
	defer c.lockMu.Unlock()
	l := c.locks[name]
	if l == nil {
		l = &lock{ch: make(chan struct{}, 1)}
		c.locks[name] = l
	}
	l.users++
	return l
}

func (c *Controller) leave(name string, l *lock) {
	c.lockMu.Lock()
	defer c.lockMu.Unlock()
	if l.users--; l.users == 0 {
		delete(c.locks, name)
	}
}

// intent records that an operation begins. The caller's request id joins it with its outcome.
func (c *Controller) intent(ctx context.Context, caller rpc.Caller, requestID, event, name string) (*auditlog.Operation, error) {
	return c.o.Audit.Intent(ctx, auditlog.Entry{
		Holder: caller.ID, Event: event, Object: "svc:" + name, RequestID: requestID, ArgumentDigest: caller.Digest, TraceID: traceID(caller.Traceparent),
	})
}

// traceID is the second field of a W3C traceparent.
func traceID(parent string) string {
	f := strings.Split(parent, "-")
	if len(f) < 4 || len(f[1]) != 32 {
		return ""
	}
	return f[1]
}

// format names a manifest's format in metrics.
func format(m *solov1.Manifest) string {
	return strings.ToLower(strings.TrimPrefix(m.GetFormat().String(), "FORMAT_"))
}

func newID() string { return strings.ToLower(rand.Text()[:16]) }

// unavailable tells whether an error may pass by itself. That code does not become ready in time is
// the code's own failure.
func unavailable(err error) bool {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Reason != fault.ReasonStartFailed && (e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded || e.Code == codes.Aborted)
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
