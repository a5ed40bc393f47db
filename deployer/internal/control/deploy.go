package control

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/manifest"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Deploy makes a service run: a new one, or one that was stopped or has failed.
func (c *Controller) Deploy(ctx context.Context, caller rpc.Caller, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	begun := time.Now()
	service, err := caller.AboutOne("manifest.name", req.GetManifest().GetName())
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		return c.validate(ctx, caller, service, req)
	}
	resp, replayed, err := idem.Do(ctx, c.idem, caller, req.GetRequestId(), nil, func() (*solov1.DeployResponse, error) {
		return c.deploy(ctx, caller, service, req, begun)
	})
	if !replayed {
		c.metrics.deployed(req.GetManifest(), err)
	}
	return resp, err
}

// complete is a manifest with its defaults, refused if it contradicts itself or asks for what does
// not exist.
func complete(m *solov1.Manifest) (*solov1.Manifest, error) {
	m, err := manifest.Complete(m)
	if err != nil {
		return nil, err
	}
	return m, manifest.Supported(m)
}

// vacant refuses a deploy over a service that runs.
func (c *Controller) vacant(name string) (entry, error) {
	e, ok := c.book.get(name)
	if ok && e.reg.GetDesiredRunning() && e.reg.GetState() != solov1.ServiceState_SERVICE_STATE_FAILED {
		return e, fault.New(codes.AlreadyExists, fault.ReasonServiceExists, "%s runs already, at revision %d", name, e.reg.GetRevision()).
			With("object", "svc:"+name).Next("use update to replace it, or kill it first")
	}
	if !ok {
		e.reg = &kernelv1.Registration{Name: name, CreatedAt: timestamppb.Now()}
	}
	return e, nil
}

func (c *Controller) validate(ctx context.Context, caller rpc.Caller, service subject.Service, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	m, err := complete(req.GetManifest())
	if err != nil {
		return nil, err
	}
	e, err := c.vacant(m.GetName())
	if err != nil {
		return nil, err
	}
	if _, err := c.endow(ctx, service, caller.ID, m, true); err != nil {
		return nil, err
	}
	code, err := c.prepare(ctx, caller, m, req.GetCode(), false)
	if err != nil {
		return nil, err
	}
	s := c.view(e)
	s.Manifest, s.CodeSha256, s.Revision = m, code.sha, e.reg.GetLastRevision()+1
	return &solov1.DeployResponse{Service: s, Diagnostics: code.diagnostics, Cached: code.cached}, nil
}

func (c *Controller) deploy(ctx context.Context, caller rpc.Caller, service subject.Service, req *solov1.DeployRequest, begun time.Time) (resp *solov1.DeployResponse, err error) {
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
	e, err := c.vacant(m.GetName())
	if err != nil {
		return nil, err
	}
	op, code, err := c.ready(ctx, caller, service, "deploy", req.GetRequestId(), m, req.GetCode())
	if op == nil {
		return nil, err
	}
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // the recorder has logged it; the caller learns why the deploy failed
		return nil, err
	}
	reg := proto.CloneOf(e.reg)
	reg.Revision = 0 // nothing of it runs
	err = addRevision(reg, &kernelv1.Revision{
		Manifest: m, SourceSha256: code.source, CodeSha256: code.sha, DeployedBy: caller.ID, DeployedAt: timestamppb.Now(),
	})
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // as above
		return nil, err
	}
	endowed, err := c.endow(ctx, service, caller.ID, m, false)
	if err != nil {
		_ = op.Outcome(ctx, err, nil) // as above
		return nil, err
	}
	reg.Revision, reg.DesiredRunning, reg.State, reg.LastError, reg.Rollout = reg.LastRevision, true, solov1.ServiceState_SERVICE_STATE_STARTING, "", nil
	reg.ServingId, reg.ServiceId = endowed.GetServingId(), endowed.GetServiceId()
	claimed, placed, err := c.start(ctx, caller.Recheck, reg, e.kv, event(reg, "deployed", "revision %d by %s", reg.GetRevision(), caller.ID))
	if err != nil {
		return nil, c.undeployed(ctx, op, e, claimed, err)
	}
	return c.deployed(ctx, op, claimed, placed, m, code, begun)
}

// deployed finishes a deploy whose placement answers.
func (c *Controller) deployed(ctx context.Context, op *auditlog.Operation, claimed entry, placed *nodev1.PlaceResponse, m *solov1.Manifest, code *code, begun time.Time) (*solov1.DeployResponse, error) {
	resp := &solov1.DeployResponse{Diagnostics: code.diagnostics, StartupMs: c.metrics.started(m, begun), Cached: code.cached && placed.GetCached()}
	if m.GetFormat() == solov1.Format_FORMAT_BINARY {
		resp.Cached = true // there is nothing to compile
	}
	// It runs whatever becomes of the caller.
	ctx = context.WithoutCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		return op.Outcome(ctx, nil, map[string]string{"revision": number(claimed.reg.GetRevision())})
	})
	now := claimed
	g.Go(func() (err error) {
		now, err = c.running(ctx, claimed, placed.GetEnforcement(), "running", "")
		return err
	})
	if err := g.Wait(); err != nil {
		// The claim is on record, so reconciliation finds the placement and registers that it runs.
		c.o.Log.Warn("a deploy is not fully registered yet", "service", m.GetName(), "error", err)
		c.dirty.add(m.GetName())
		now.reg = proto.CloneOf(claimed.reg)
		now.reg.State = solov1.ServiceState_SERVICE_STATE_RUNNING
	}
	resp.Service = c.view(now)
	return resp, nil
}

// undeployed ends a deploy that failed after the rights were made: before the claim nothing is left of
// it; after, the registration says why the code does not run.
func (c *Controller) undeployed(ctx context.Context, op *auditlog.Operation, before, claimed entry, why error) error {
	ctx = context.WithoutCancel(ctx)
	if claimed.kv == 0 {
		if before.kv == 0 {
			c.disendow(ctx, before.reg.GetName())
		}
	} else {
		c.failed(ctx, claimed, why)
		f := fault.From(why)
		if !unavailable(why) && !withdrawn(why) && (f.Code != codes.Internal || f.Reason == fault.ReasonStartFailed) {
			why = fault.New(codes.FailedPrecondition, fault.ReasonStartFailed, "%s did not start: %s", before.reg.GetName(), text(why)).Because(why).
				Next("see `solo logs %s` and `solo crash %s`; deploying again tries anew", before.reg.GetName(), before.reg.GetName())
		}
	}
	_ = op.Outcome(ctx, why, nil) // the recorder has logged it; the caller learns why the deploy failed
	return why
}

// ready records the intent and prepares the code, side by side: preparing changes nothing that anyone
// could see. op is nil when the intent is not on record, and then nothing may happen.
func (c *Controller) ready(ctx context.Context, caller rpc.Caller, service subject.Service, event, requestID string, m *solov1.Manifest, in *solov1.Code) (op *auditlog.Operation, out *code, err error) {
	var g errgroup.Group
	var unrecorded error
	g.Go(func() error {
		op, unrecorded = c.intent(ctx, caller, requestID, event, m.GetName())
		return nil
	})
	if c.slow(m, in) {
		// Learn early what would refuse the deploy after a long build.
		g.Go(func() error {
			_, err := c.endow(ctx, service, caller.ID, m, true)
			return err
		})
	}
	var bad error
	g.Go(func() error {
		out, bad = c.prepare(ctx, caller, m, in, true)
		return nil
	})
	err = g.Wait()
	switch {
	case unrecorded != nil:
		return nil, nil, unrecorded
	case bad != nil:
		return op, nil, bad
	case err != nil:
		return op, nil, err
	}
	op.Code(out.sha)
	return op, out, caller.Recheck()
}

// slow tells whether preparing code may take long.
func (c *Controller) slow(m *solov1.Manifest, in *solov1.Code) bool {
	return m.GetFormat() == solov1.Format_FORMAT_GO_SOURCE || m.GetFormat() == solov1.Format_FORMAT_WASM && !c.isCompiled(in.GetSha256())
}

// endow makes a service's records, or checks whether that could be done.
func (c *Controller) endow(ctx context.Context, s subject.Service, holder string, m *solov1.Manifest, validateOnly bool) (*kernelv1.EndowResponse, error) {
	req := &kernelv1.EndowRequest{
		Service: s.String(), Holder: holder, Rules: m.GetGrants(), ValidateOnly: validateOnly,
		MemoryBytes: uint64(m.GetReplicas()) * m.GetLimits().GetMemoryBytes(),
	}
	var resp kernelv1.EndowResponse
	err := patient(ctx, func() error { return c.o.Peer.Call(ctx, subject.Capmgr, "endow", s, req, &resp) })
	if f, ok := errors.AsType[*fault.Error](err); ok {
		switch {
		case f.Reason == fault.ReasonNotGranted:
			f.AddField("manifest.grants", "%s", f.Message)
		case f.Reason == fault.ReasonBudget && f.Metadata["budget"] == "memory_bytes":
			f.AddField("manifest.limits.memory", "%s", f.Message)
		}
	}
	if err != nil {
		return nil, err
	}
	return &resp, nil
}

// disendow takes all rights of a service away; what cannot be taken away now is logged, and replaced
// by the next endowment.
func (c *Controller) disendow(ctx context.Context, name string) {
	s, err := subject.ParseService(name)
	if err == nil {
		err = patient(ctx, func() error {
			return c.o.Peer.Call(ctx, subject.Capmgr, "disendow", s, &kernelv1.DisendowRequest{Service: name}, &kernelv1.DisendowResponse{})
		})
	}
	if err != nil {
		c.o.Log.Error("the rights of a service could not be taken away", "service", name, "error", err)
	}
}
