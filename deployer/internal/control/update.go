package control

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/manifest"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// Update replaces a service's code or manifest by RECREATE: the old revision stops, the new one
// starts, state stays. If the new one does not start, the old one runs again.
func (c *Controller) Update(ctx context.Context, caller rpc.Caller, req *solov1.UpdateRequest) (*solov1.UpdateResponse, error) {
	begun := time.Now()
	service, err := caller.AboutOne("manifest.name", req.GetManifest().GetName())
	if err != nil {
		return nil, err
	}
	switch req.GetAction() {
	case solov1.UpdateAction_UPDATE_ACTION_UNSPECIFIED, solov1.UpdateAction_UPDATE_ACTION_START:
	default:
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "action: a recreating update has nothing to pause, resume or abort; only START is supported").
			AddField("action", "use START").Next("to return to the revision before, use rollback")
	}
	if err := manifest.Strategy(req.GetManifest()); err != nil {
		return nil, err
	}
	resp, replayed, err := idem.Do(ctx, c.idem, caller, req.GetRequestId(), nil, func() (*solov1.UpdateResponse, error) {
		return c.update(ctx, caller, service, req, begun)
	})
	if !replayed {
		c.metrics.deployed(req.GetManifest(), err)
	}
	return resp, err
}

// occupied returns a service that an update can start from.
func (c *Controller) occupied(name string, expected uint64) (entry, *kernelv1.Revision, error) {
	e, ok := c.book.get(name)
	if !ok {
		return e, nil, notFound(name)
	}
	old := revision(e.reg, e.reg.GetRevision())
	if old == nil || !e.reg.GetDesiredRunning() {
		return e, nil, fault.New(codes.FailedPrecondition, fault.ReasonServiceNotRunning, "%s is stopped; there is nothing to update", name).Next("deploy it")
	}
	if expected != 0 && expected != old.GetNumber() {
		return e, nil, fault.New(codes.Aborted, fault.ReasonConflict, "expected_revision: %s is at revision %d, not %d", name, old.GetNumber(), expected).
			AddField("expected_revision", "%d runs", old.GetNumber()).With("revision", number(old.GetNumber())).Next("look at the service again, then decide")
	}
	return e, old, nil
}

func (c *Controller) update(ctx context.Context, caller rpc.Caller, service subject.Service, req *solov1.UpdateRequest, begun time.Time) (*solov1.UpdateResponse, error) {
	m, err := complete(req.GetManifest())
	if err != nil {
		return nil, err
	}
	unlock, err := c.lock(ctx, m.GetName())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := caller.Recheck(); err != nil {
		return nil, err
	}
	e, old, err := c.occupied(m.GetName(), req.GetExpectedRevision())
	if err != nil {
		return nil, err
	}
	in := req.GetCode()
	if in == nil {
		if m.GetFormat() != old.GetManifest().GetFormat() {
			return nil, fault.Invalid("code", "revision %d is %s, the new manifest says %s: send the new code with it", old.GetNumber(), format(old.GetManifest()), format(m))
		}
		in = &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: old.GetSourceSha256()}}
	}
	op, code, err := c.ready(ctx, caller, service, "update", req.GetRequestId(), m, in)
	if op == nil {
		return nil, err
	}
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why the update failed
		return nil, err
	}
	next := &kernelv1.Revision{Manifest: m, SourceSha256: code.source, CodeSha256: code.sha, DeployedBy: caller.ID, DeployedAt: timestamppb.Now()}
	reg := proto.CloneOf(e.reg)
	if err := addRevision(reg, next); err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why the update failed
		return nil, err
	}
	rollout, err := c.recreate(ctx, op, caller, e, reg, next, old, begun)
	if err != nil {
		return nil, err
	}
	return &solov1.UpdateResponse{Rollout: rollout, Diagnostics: code.diagnostics}, nil
}

// Rollback returns to a kept revision, by RECREATE.
func (c *Controller) Rollback(ctx context.Context, caller rpc.Caller, req *solov1.RollbackRequest) (*solov1.RollbackResponse, error) {
	service, err := caller.AboutOne("service", req.GetService())
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	resp, _, err := idem.Do(ctx, c.idem, caller, req.GetRequestId(), nil, func() (*solov1.RollbackResponse, error) {
		return c.rollback(ctx, caller, service.String(), req, begun)
	})
	return resp, err
}

func (c *Controller) rollback(ctx context.Context, caller rpc.Caller, name string, req *solov1.RollbackRequest, begun time.Time) (*solov1.RollbackResponse, error) {
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := caller.Recheck(); err != nil {
		return nil, err
	}
	e, old, err := c.occupied(name, 0)
	if err != nil {
		return nil, err
	}
	target := revision(e.reg, req.GetRevision())
	if req.GetRevision() == 0 {
		for _, r := range e.reg.GetRevisions() {
			if r.GetNumber() < old.GetNumber() {
				target = r // they are in order
			}
		}
	}
	switch {
	case target == nil:
		return nil, fault.New(codes.NotFound, fault.ReasonRevisionNotFound, "%s keeps no such revision to return to", name).
			AddField("revision", "one of the kept revisions, at most the last %d", maxRevisions)
	case target.GetNumber() == old.GetNumber():
		return nil, fault.Invalid("revision", "%s is at revision %d already", name, old.GetNumber())
	}
	op, err := c.intent(ctx, caller, req.GetRequestId(), "rollback", name)
	if err != nil {
		return nil, err
	}
	op.Code(target.GetCodeSha256())
	rollout, err := c.recreate(ctx, op, caller, e, proto.CloneOf(e.reg), target, old, begun)
	if err != nil {
		return nil, err
	}
	return &solov1.RollbackResponse{Rollout: rollout}, nil
}

// holderFor chooses whose rights a revision's rights to call out are made from: where they are within
// those of the revision before, the holder of those; anything more is the asking holder's to give.
func holderFor(next, old *kernelv1.Revision, asking string) string {
	had, err := capability.ParseRules(old.GetManifest().GetGrants())
	if err != nil {
		return asking
	}
	wants, err := capability.ParseRules(next.GetManifest().GetGrants())
	if err != nil || !had.Includes(wants) {
		return asking
	}
	return old.GetDeployedBy()
}

// recreate stops old and starts next, and goes back if next does not start. It records the outcome.
func (c *Controller) recreate(ctx context.Context, op *auditlog.Operation, caller rpc.Caller, e entry, reg *kernelv1.Registration, next, old *kernelv1.Revision, begun time.Time) (*solov1.Rollout, error) {
	name := reg.GetName()
	service, err := subject.ParseService(name)
	if err != nil {
		return nil, err
	}
	// Whether the rights can be had is decided before anything is touched. They are made when the old
	// revision has finished: making them ends its own.
	holder := holderFor(next, old, caller.ID)
	_, err = c.endow(ctx, service, holder, next.GetManifest(), true)
	if err != nil && holder != caller.ID {
		holder = caller.ID
		_, err = c.endow(ctx, service, holder, next.GetManifest(), true)
	}
	if err == nil {
		err = caller.Recheck()
	}
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why
		return nil, err
	}
	// From here on it is carried to an end, whatever becomes of the caller.
	ctx = context.WithoutCancel(ctx)
	c.remove(ctx, name, old.GetNumber(), defaultGrace)
	reg.Revision, reg.State, reg.LastError = next.GetNumber(), solov1.ServiceState_SERVICE_STATE_UPDATING, ""
	reg.Rollout = &solov1.Rollout{
		Id: newID(), FromRevision: old.GetNumber(), ToRevision: next.GetNumber(), Strategy: solov1.Strategy_STRATEGY_RECREATE, State: solov1.RolloutState_ROLLOUT_STATE_RUNNING,
	}
	if err := caller.Recheck(); err != nil { // the old revision may have taken long to finish
		return nil, c.notUpdated(ctx, op, entry{reg, e.kv}, old, err)
	}
	endowed, err := c.endow(ctx, service, holder, next.GetManifest(), false)
	if err != nil {
		return nil, c.notUpdated(ctx, op, entry{reg, e.kv}, old, err)
	}
	reg.ServingId, reg.ServiceId = endowed.GetServingId(), endowed.GetServiceId()
	claimed, placed, err := c.start(ctx, caller.Recheck, reg, e.kv, event(reg, "updating", "revision %d to %d by %s", old.GetNumber(), next.GetNumber(), caller.ID))
	if err == nil {
		c.metrics.started(next.GetManifest(), begun)
		now, rerr := c.running(ctx, claimed, placed.GetEnforcement(), "updated", "revision "+number(next.GetNumber()))
		if rerr != nil {
			c.dirty.add(name)
			now = claimed
		}
		_ = op.Outcome(ctx, nil, map[string]string{"revision": number(next.GetNumber())}) // logged; it runs
		return now.reg.GetRollout(), nil
	}
	if claimed.kv == 0 {
		claimed = entry{reg, e.kv}
		if known, ok := c.book.get(name); ok {
			claimed.kv = known.kv
		}
	}
	return nil, c.notUpdated(ctx, op, claimed, old, err)
}

// notUpdated goes back to the revision before, records that and returns it as a fault.
func (c *Controller) notUpdated(ctx context.Context, op *auditlog.Operation, e entry, old *kernelv1.Revision, cause error) error {
	name, to := e.reg.GetName(), e.reg.GetRevision()
	back := c.goBack(ctx, e, old, cause)
	why := fault.New(codes.FailedPrecondition, fault.ReasonStartFailed, "revision %d of %s did not start: %s; %s", to, name, text(cause), back).Because(cause).
		Next("see `solo crash %s`", name)
	if withdrawn(cause) {
		why = fault.From(cause)
	}
	_ = op.Outcome(ctx, why, nil) // the recorder has logged it; the caller learns why
	return why
}

// goBack starts the revision before again after a rollout that failed, and says how that went.
func (c *Controller) goBack(ctx context.Context, e entry, old *kernelv1.Revision, why error) string {
	reg := proto.CloneOf(e.reg)
	if reg.Rollout == nil {
		reg.Rollout = &solov1.Rollout{Id: newID(), ToRevision: reg.GetRevision(), FromRevision: old.GetNumber(), Strategy: solov1.Strategy_STRATEGY_RECREATE}
	}
	reg.Rollout.State, reg.Rollout.Error = solov1.RolloutState_ROLLOUT_STATE_ROLLED_BACK, text(why)
	reg.Revision, reg.State = old.GetNumber(), solov1.ServiceState_SERVICE_STATE_STARTING
	if service, err := subject.ParseService(reg.GetName()); err == nil {
		endowed, err := c.endow(ctx, service, old.GetDeployedBy(), old.GetManifest(), false)
		if err != nil { // whoever granted them may be gone: then it runs without
			without := proto.CloneOf(old.GetManifest())
			without.Grants = nil
			c.o.Log.Warn("a service goes back without its rights to call out", "service", reg.GetName(), "error", err)
			endowed, err = c.endow(ctx, service, old.GetDeployedBy(), without, false)
		}
		if err == nil {
			reg.ServingId, reg.ServiceId = endowed.GetServingId(), endowed.GetServiceId()
		}
	}
	claimed, placed, err := c.start(ctx, always, reg, e.kv, event(reg, "rolled_back", "%s", text(why)))
	if err != nil {
		if claimed.kv == 0 {
			claimed = entry{reg, e.kv}
		}
		c.failed(ctx, claimed, err)
		return "revision " + number(old.GetNumber()) + " does not start again either: " + text(err)
	}
	if _, err := c.running(ctx, claimed, placed.GetEnforcement(), "running", "revision "+number(old.GetNumber())+" again"); err != nil {
		c.dirty.add(reg.GetName())
	}
	return "revision " + number(old.GetNumber()) + " runs again"
}
