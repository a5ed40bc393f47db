package control

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/deployer/internal/node"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	// placeTimeout bounds how long a placement may take until it is ready.
	placeTimeout = time.Minute
	// removeTimeout is what removing takes at most beyond its grace period.
	removeTimeout = 10 * time.Second
	// defaultGrace is how long calls may go on in what is being removed.
	defaultGrace = 5 * time.Second
	// placeTries is how often a placement is tried when its runner dies under it.
	placeTries = 3
)

// live tells whether a capability record is alive here.
func (c *Controller) live(id string) bool { return c.o.Table.Live(id) == gate.Allowed }

// permit tells whether an effect may begin: rpc.Caller.Recheck, or always.
type permit func() error

// always is the permit of the system itself, which brings back what was permitted once.
func always() error { return nil }

// withdrawn tells whether an operation was refused because its caller's handle has ended meanwhile.
func withdrawn(err error) bool { return fault.Is(err, fault.ReasonHandleRefused) }

// keys of one epoch of a placement.
type keys struct {
	serving, servingSeed string
	calling, callingSeed string
}

func newKeys(calling bool) (k keys, err error) {
	if k.serving, k.servingSeed, err = newKey(); err == nil && calling {
		k.calling, k.callingSeed, err = newKey()
	}
	return k, err
}

func newKey() (id, seed string, err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return "", "", err
	}
	defer kp.Wipe()
	if id, err = kp.PublicKey(); err != nil {
		return "", "", err
	}
	b, err := kp.Seed()
	return id, string(b), err
}

// start places what reg asks for, under the next epoch, and returns when it answers. The claim of the
// epoch, with the state that reg carries, is registered first; e is the registration as it then stands,
// also when the placement failed. e.kv is 0 when not even the claim succeeded. The caller holds the
// service's lock. may is asked right before each effect whether whoever wants this may still have it.
func (c *Controller) start(ctx context.Context, may permit, reg *kernelv1.Registration, kv uint64, events ...*solov1.Event) (e entry, resp *nodev1.PlaceResponse, err error) {
	rev := revision(reg, reg.GetRevision())
	if rev == nil {
		return e, nil, fault.Internal(nil, "revision %d of %s is not kept", reg.GetRevision(), reg.GetName())
	}
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	for try := 1; ; try++ {
		reg = proto.CloneOf(reg)
		reg.Epoch++
		claimed, resp, err := c.tryStart(ctx, may, reg, rev, kv, events)
		if claimed.kv != 0 {
			e, kv = claimed, claimed.kv
		}
		if err == nil {
			return e, resp, nil
		}
		if !unavailable(err) || try == placeTries || ctx.Err() != nil || fault.Is(err, fault.ReasonConflict) {
			return e, nil, err
		}
		c.o.Log.Warn("a placement is tried again", "service", reg.GetName(), "error", err)
		events = nil
		wait := time.NewTimer(time.Duration(try) * 50 * time.Millisecond)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

func (c *Controller) tryStart(ctx context.Context, may permit, reg *kernelv1.Registration, rev *kernelv1.Revision, kv uint64, events []*solov1.Event) (e entry, resp *nodev1.PlaceResponse, err error) {
	service, err := subject.ParseService(reg.GetName())
	if err != nil {
		return e, nil, fault.Internal(err, "a registration without a name")
	}
	calling := reg.GetServiceId() != "" && c.live(reg.GetServiceId())
	k, err := newKeys(calling)
	if err != nil {
		return e, nil, fault.Internal(err, "no keys can be made")
	}
	if err := may(); err != nil {
		return e, nil, err
	}
	// Nothing of this depends on each other, and nothing is undone when one fails: an epoch that was
	// claimed in vain is passed over, and keys that nobody holds open nothing.
	var g errgroup.Group
	var path string
	var runner *node.Runner
	g.Go(func() (err error) {
		e, err = c.book.put(ctx, reg, kv, events...)
		return err
	})
	g.Go(func() error {
		return patient(ctx, func() error {
			return c.o.Peer.Call(ctx, subject.Capmgr, "bind", service, &kernelv1.BindRequest{
				Service: reg.GetName(), Revision: rev.GetNumber(), Epoch: reg.GetEpoch(), Node: c.o.Node, ServingKey: k.serving, CallingKey: k.calling,
			}, &kernelv1.BindResponse{})
		})
	})
	g.Go(func() (err error) {
		path, _, err = c.o.Artifacts.File(ctx, rev.GetCodeSha256())
		return err
	})
	g.Go(func() (err error) {
		runner, err = c.node.Runner(ctx, service.Namespace)
		return err
	})
	if err := g.Wait(); err != nil {
		return e, nil, err
	}
	req := &nodev1.PlaceRequest{
		Service: reg.GetName(), Revision: rev.GetNumber(), Epoch: reg.GetEpoch(), Manifest: rev.GetManifest(),
		CodePath: path, CodeSha256: rev.GetCodeSha256(), ServingSeed: k.servingSeed,
	}
	if calling {
		req.CallingSeed, req.CallingRules, req.CallingId = k.callingSeed, rev.GetManifest().GetGrants(), reg.GetServiceId()
	}
	if err := may(); err != nil {
		return e, nil, err
	}
	c.actual.begin(reg.GetName(), rev.GetNumber(), reg.GetEpoch())
	resp, err = runner.Place(ctx, req)
	if err != nil {
		c.remove(context.WithoutCancel(ctx), reg.GetName(), rev.GetNumber(), 0)
		if ctx.Err() != nil {
			err = fault.New(codes.DeadlineExceeded, fault.ReasonStartFailed, "%s did not become ready in time", reg.GetName()).Because(err)
		}
		return e, nil, err
	}
	c.actual.placed(resp.GetPlacement())
	return e, resp, nil
}

// remove ends a placement wherever it is on this node. What cannot be removed, because its runner does
// not answer, is dead soon: the runner is killed for not answering.
func (c *Controller) remove(ctx context.Context, service string, rev uint64, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace+removeTimeout)
	defer cancel()
	if r := c.runnerOf(service); r != nil {
		if cut, err := r.Remove(ctx, service, rev, grace); err != nil {
			c.o.Log.Warn("a placement could not be removed", "service", service, "revision", rev, "error", err)
		} else if cut > 0 {
			c.o.Log.Info("calls were cut at the end of the grace period", "service", service, "revision", rev, "calls", cut)
		}
	}
	c.actual.end(service, rev)
	c.report.change(service, rev)
}

// runnerOf is the runner that a service's namespace has now, or nil.
func (c *Controller) runnerOf(service string) *node.Runner {
	ns := namespaceOf(service)
	for _, r := range c.node.Runners() {
		if r.Namespace() == ns {
			return r
		}
	}
	return nil
}

// running registers that a placement answers, and reports it.
func (c *Controller) running(ctx context.Context, e entry, enforcement []string, kind, message string) (entry, error) {
	reg := proto.CloneOf(e.reg)
	reg.State, reg.LastError = solov1.ServiceState_SERVICE_STATE_RUNNING, ""
	if enforcement != nil {
		reg.Enforcement = enforcement
	}
	if r := reg.GetRollout(); r.GetState() == solov1.RolloutState_ROLLOUT_STATE_RUNNING {
		r.State, r.Weight = solov1.RolloutState_ROLLOUT_STATE_SUCCEEDED, 100
	}
	var g errgroup.Group
	g.Go(func() (err error) {
		e, err = c.book.put(ctx, reg, e.kv, event(reg, kind, "%s", message))
		return err
	})
	g.Go(func() error {
		c.report.now(ctx, reg.GetName(), reg.GetRevision())
		return nil
	})
	err := g.Wait()
	return e, err
}

// failed registers that a service does not run and why. It outlives the end of ctx.
func (c *Controller) failed(ctx context.Context, e entry, why error) entry {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	reg := proto.CloneOf(e.reg)
	reg.State, reg.LastError = solov1.ServiceState_SERVICE_STATE_FAILED, text(why)
	now, err := c.book.put(ctx, reg, e.kv, event(reg, "failed", "%s", reg.LastError))
	if err != nil {
		c.o.Log.Warn("a failure could not be registered", "service", reg.GetName(), "error", err)
		c.dirty.add(reg.GetName())
		return entry{reg, e.kv}
	}
	c.report.change(reg.GetName(), reg.GetRevision())
	return now
}

// maxText bounds what is registered of an error, in bytes: it may be the words of a service.
const maxText = 16 << 10

// text is an error for people: a fault's message without its reason.
func text(err error) string {
	f := fault.From(err)
	s := f.Message
	if f.Code != codes.Internal && f.Reason != fault.ReasonStartFailed {
		s = f.Reason + ": " + s
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
