package control

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Kill stops a service until it is deployed again, or ends one instance, which supervision restarts.
func (c *Controller) Kill(ctx context.Context, caller rpc.Caller, req *solov1.KillRequest) (*solov1.KillResponse, error) {
	service, err := caller.AboutOne("service", req.GetService())
	if err != nil {
		return nil, err
	}
	if req.GetInstance() != "" && req.GetPurge() {
		return nil, fault.Invalid("purge", "an instance has nothing to purge; leave instance empty to purge the service")
	}
	if e, ok := c.stoppedAlready(caller, req); ok {
		return &solov1.KillResponse{Service: c.view(e)}, nil
	}
	resp, _, err := idem.Do(ctx, c.idem, caller, req.GetRequestId(), nil, func() (*solov1.KillResponse, error) {
		return c.kill(ctx, caller, service.String(), req)
	})
	return resp, err
}

// stoppedAlready finds a service of which a kill has nothing to change: that needs no record, and no
// memory of its answer. Where an operation on the service is under way, it is not known.
func (c *Controller) stoppedAlready(caller rpc.Caller, req *solov1.KillRequest) (entry, bool) {
	if req.GetInstance() != "" || req.GetPurge() {
		return entry{}, false
	}
	unlock, ok := c.tryLock(req.GetService())
	if !ok {
		return entry{}, false
	}
	defer unlock()
	e, ok := c.book.get(req.GetService())
	return e, ok && !e.reg.GetDesiredRunning() && (req.GetEtag() == "" || req.GetEtag() == etag(e)) && caller.Recheck() == nil
}

func (c *Controller) kill(ctx context.Context, caller rpc.Caller, name string, req *solov1.KillRequest) (*solov1.KillResponse, error) {
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := caller.Recheck(); err != nil {
		return nil, err
	}
	e, ok := c.book.get(name)
	if !ok {
		return nil, notFound(name)
	}
	if req.GetEtag() != "" && req.GetEtag() != etag(e) {
		return nil, fault.New(codes.Aborted, fault.ReasonConflict, "etag: %s has changed since it was %q", name, req.GetEtag()).
			AddField("etag", "now %q", etag(e)).With("etag", etag(e)).Next("look at the service again, then decide")
	}
	grace := defaultGrace
	if req.GetGracePeriod() != nil {
		grace = req.GetGracePeriod().AsDuration()
	}
	if id := req.GetInstance(); id != "" {
		return c.killInstance(ctx, caller, e, id, grace, req.GetRequestId())
	}
	if !e.reg.GetDesiredRunning() && !req.GetPurge() {
		return &solov1.KillResponse{Service: c.view(e)}, nil // it is stopped already
	}
	event := "kill"
	if req.GetPurge() {
		event = "purge"
	}
	op, err := c.intent(ctx, caller, req.GetRequestId(), event, name)
	if err != nil {
		return nil, err
	}
	return c.stop(ctx, caller, op, e, grace, req.GetPurge())
}

func (c *Controller) stop(ctx context.Context, caller rpc.Caller, op *auditlog.Operation, e entry, grace time.Duration, purge bool) (*solov1.KillResponse, error) {
	name := e.reg.GetName()
	reg := proto.CloneOf(e.reg)
	reg.DesiredRunning, reg.State, reg.Revision, reg.LastError = false, solov1.ServiceState_SERVICE_STATE_STOPPED, 0, ""
	if err := caller.Recheck(); err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why
		return nil, err
	}
	stopped, err := c.book.put(ctx, reg, e.kv, event(e.reg, "stopped", "by %s", caller.ID))
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why
		return nil, err
	}
	// Registered is done: what follows is carried to an end, whatever becomes of the caller.
	ctx = context.WithoutCancel(ctx)
	for _, p := range c.actual.of(name) {
		c.remove(ctx, name, p.GetRevision(), grace)
	}
	c.disendow(ctx, name)
	c.tries.forget(name)
	if purge {
		if err = caller.Recheck(); err == nil { // stopping may have taken long
			err = c.purge(ctx, stopped)
		}
	}
	_ = op.Outcome(ctx, err, nil) // logged; the service is stopped
	if err != nil {
		return nil, err
	}
	return &solov1.KillResponse{Service: c.view(stopped)}, nil
}

// purge drops a stopped service's state and forgets it.
func (c *Controller) purge(ctx context.Context, e entry) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	k, err := c.node.Keeper(ctx)
	if err != nil {
		return err
	}
	if _, err := k.Drop(ctx, &nodev1.DropRequest{Service: e.reg.GetName(), Epoch: e.reg.GetEpoch() + 1}); err != nil {
		return fault.Unavailable(time.Second, "%s is stopped, but its state could not be dropped; purge it again", e.reg.GetName()).Because(err)
	}
	s, err := subject.ParseService(e.reg.GetName())
	if err == nil {
		err = c.crashes.forget(ctx, s)
	}
	if err != nil {
		return fault.Unavailable(time.Second, "%s is stopped, but its crash records could not be dropped; purge it again", e.reg.GetName()).Because(err)
	}
	return c.book.delete(ctx, e)
}

func (c *Controller) killInstance(ctx context.Context, caller rpc.Caller, e entry, id string, grace time.Duration, requestID string) (*solov1.KillResponse, error) {
	name := e.reg.GetName()
	r := c.runnerOf(name)
	if r == nil || !c.hasInstance(name, id) {
		return nil, fault.New(codes.NotFound, fault.ReasonInstanceNotFound, "%s has no instance %s now", name, id).
			AddField("instance", "one of the instances that status lists").Next("`solo status %s` lists them", name)
	}
	op, err := c.intent(ctx, caller, requestID, "kill", name)
	if err != nil {
		return nil, err
	}
	if err = caller.Recheck(); err == nil {
		err = r.EndInstance(ctx, name, id, "killed by "+caller.ID, grace)
	}
	_ = op.Outcome(ctx, err, map[string]string{"instance": id}) // logged; the caller learns of err
	if err != nil {
		return nil, err
	}
	return &solov1.KillResponse{Service: c.view(e)}, nil
}

func (c *Controller) hasInstance(name, id string) bool {
	for _, p := range c.actual.of(name) {
		for _, i := range p.GetInstances() {
			if i.GetId() == id {
				return true
			}
		}
	}
	return false
}
