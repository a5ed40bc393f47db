package registry

import (
	"strconv"
	"time"

	"github.com/solo-os/solo/bus/gate"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// tier of everything that is deployed.
const tier = "user"

// view is a service as it stands: what is registered, what runs, and which of its rights to
// call out are alive.
func (r *Registry) view(e entry) *solov1.Service {
	reg := e.Registration
	s := &solov1.Service{
		Name: reg.GetName(), Tier: tier, State: reg.GetState(), Revision: reg.GetRevision(), Rollout: reg.GetRollout(),
		Enforcement: reg.GetEnforcement(), LastError: reg.GetLastError(), Etag: etag(e),
	}
	if rev := shown(reg); rev != nil {
		s.Manifest, s.CodeSha256, s.DeployedBy, s.DeployedAt = rev.GetManifest(), rev.GetCodeSha256(), rev.GetDeployedBy(), rev.GetDeployedAt()
	}
	run := r.live.Service(reg.GetName())
	s.Instances = run.Instances
	if s.State == solov1.ServiceState_SERVICE_STATE_RUNNING {
		switch {
		case run.Failed && ready(run.Instances) == 0:
			s.State, s.LastError = solov1.ServiceState_SERVICE_STATE_FAILED, run.LastError
		case len(run.Instances) > 0 && ready(run.Instances) == 0:
			s.State = solov1.ServiceState_SERVICE_STATE_STARTING
		}
	}
	s.Grants = r.grants(reg.GetServiceId(), s.Manifest.GetGrants())
	return s
}

// shown is the revision that a view describes: the one that should run, else the newest.
func shown(reg *kernelv1.Registration) *kernelv1.Revision {
	for _, v := range reg.GetRevisions() {
		if v.GetNumber() == reg.GetRevision() {
			return v
		}
	}
	if n := len(reg.GetRevisions()); n > 0 {
		return reg.GetRevisions()[n-1]
	}
	return nil
}

func ready(instances []*solov1.Instance) (n int) {
	for _, i := range instances {
		if i.GetState() == solov1.InstanceState_INSTANCE_STATE_READY {
			n++
		}
	}
	return n
}

// grants tells of each right to call out whether it is alive. Without a record that the gate
// knows, those that the manifest asks for are shown as dead.
func (r *Registry) grants(id string, asked []string) (out []*solov1.ServiceGrant) {
	v, known := r.o.Table.Get(id)
	rules := asked
	if known {
		rules = v.Record.GetRules()
	}
	for _, rule := range rules {
		g := &solov1.ServiceGrant{Rule: rule, CapabilityId: id, Live: known && v.State == gate.Allowed}
		if known && !v.Expires.IsZero() {
			g.ExpiresAt = timestamppb.New(v.Expires)
		}
		out = append(out, g)
	}
	return out
}

// etag names the state of a registration; clients compare it and nothing else.
func etag(e entry) string { return strconv.FormatUint(e.Revision, 10) }

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
