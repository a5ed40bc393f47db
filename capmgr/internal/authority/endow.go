package authority

import (
	"context"
	"slices"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr/internal/budget"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *Authority) endow(ctx context.Context, _ rpc.Caller, req *kernelv1.EndowRequest) (*kernelv1.EndowResponse, error) {
	if err := validService(req.GetService()); err != nil {
		return nil, err
	}
	rules, err := readRules(req.GetRules())
	if err != nil {
		return nil, err
	}
	out := &kernelv1.EndowResponse{}
	_, err = a.o.Ledger.Do(ctx, func(s *ledger.State) ([]*kernelv1.CapEvent, error) {
		parent, err := endowable(s.Table, req.GetHolder(), rules)
		if err != nil {
			return nil, err
		}
		charge := budget.Charge{Service: req.GetService(), Holder: parent.Record.GetId(), MemoryBytes: req.GetMemoryBytes()}
		if err := chargeable(s.Budgets(), charge); err != nil || req.GetValidateOnly() {
			return nil, err
		}
		return a.endowment(s, charge, parent, rules, out)
	})
	if err != nil {
		return nil, a.refused(req, err)
	}
	return out, nil
}

func (a *Authority) refused(req *kernelv1.EndowRequest, err error) error {
	if err == nil {
		return nil
	}
	return a.refuse(req.GetHolder(), "endow", "svc:"+req.GetService(), err)
}

// endowable returns the capability that a service deployed by holder hangs from. A running
// placement's key passes on to the record it is bound to, which outlives it. What a service
// is given needs no depth: it is how the holder's own rights are used, and ends with them.
func endowable(t *gate.Table, holder string, rules capability.Rules) (gate.View, error) {
	v, ok := t.Get(holder)
	if err := live(v, ok); err != nil {
		return v, err
	}
	if v.Record.GetKind() == kernelv1.CapKind_CAP_KIND_BOUND {
		v, _ = t.Get(v.Record.GetParent())
	}
	if missing := v.Rules.Missing(rules); len(missing) > 0 && check.On(check.Endowment) {
		return v, tooWide(t, "manifest.grants", holder, missing)
	}
	return v, nil
}

// endowment decides which records to make and which to revoke, and fills in the answer.
func (a *Authority) endowment(s *ledger.State, charge budget.Charge, parent gate.View, rules capability.Rules, out *kernelv1.EndowResponse) ([]*kernelv1.CapEvent, error) {
	service := charge.Service
	now, sv := s.Table.Now(), s.Service(service)
	var events []*kernelv1.CapEvent
	if s.Charge(service) != charge {
		events = append(events, ledger.Charged(charge, now))
	}
	if !alive(s.Table, sv.Serving) {
		id, err := keyless()
		if err != nil {
			return nil, err
		}
		sv.Serving = id
		rec := &kernelv1.CapRecord{Id: id, Label: service + " (serving)", Kind: kernelv1.CapKind_CAP_KIND_SERVING, Service: service}
		if lifetime := s.Budgets().Lifetime(parent.Record.GetId()); lifetime > 0 {
			rec.ExpiresAt = timestamppb.New(now.Add(lifetime))
		}
		events = append(events, ledger.Granted(rec, now))
	}
	keep := ""
	if len(rules) > 0 && alive(s.Table, sv.Calling) {
		if v, _ := s.Table.Get(sv.Calling); v.Record.GetParent() == parent.Record.GetId() && sameRules(v.Rules, rules) {
			keep = sv.Calling
		}
	}
	// The old rights end before the new ones begin: a crash in between leaves too few.
	for _, id := range s.Records(service) {
		if v, _ := s.Table.Get(id); id != keep && v.Record.GetKind() == kernelv1.CapKind_CAP_KIND_SERVICE {
			events = append(events, ledger.Revoked(id, subject.Deployer, now))
		}
	}
	if keep == "" && len(rules) > 0 {
		if err := a.room(s.Table, parent.Record.GetId()); err != nil {
			return nil, err
		}
		id, err := keyless()
		if err != nil {
			return nil, err
		}
		keep = id
		rec := &kernelv1.CapRecord{
			Id: id, Parent: parent.Record.GetId(), Label: service, Rules: rules.Strings(), Kind: kernelv1.CapKind_CAP_KIND_SERVICE, Service: service,
		}
		if !parent.Expires.IsZero() {
			rec.ExpiresAt = timestamppb.New(parent.Expires)
		}
		events = append(events, ledger.Granted(rec, now))
	}
	out.ServingId, out.ServiceId = sv.Serving, keep
	if keep != "" && !parent.Expires.IsZero() {
		out.ExpiresAt = timestamppb.New(parent.Expires)
	}
	return events, nil
}

func (a *Authority) disendow(ctx context.Context, _ rpc.Caller, req *kernelv1.DisendowRequest) (*kernelv1.DisendowResponse, error) {
	if err := validService(req.GetService()); err != nil {
		return nil, err
	}
	_, err := a.o.Ledger.Do(ctx, func(s *ledger.State) (events []*kernelv1.CapEvent, _ error) {
		for _, id := range s.Records(req.GetService()) {
			events = append(events, ledger.Revoked(id, subject.Deployer, s.Table.Now()))
		}
		if s.Charge(req.GetService()).Holder != "" {
			events = append(events, ledger.Charged(budget.Charge{Service: req.GetService()}, s.Table.Now()))
		}
		return events, nil
	})
	if err != nil {
		return nil, err
	}
	return &kernelv1.DisendowResponse{}, nil
}

func validService(name string) error {
	if _, err := subject.ParseService(name); err != nil {
		return fault.Invalid("service", "%v", err)
	}
	return nil
}

func alive(t *gate.Table, id string) bool {
	v, ok := t.Get(id)
	return ok && v.State == gate.Allowed
}

// sameRules tells whether two sets read the same, in whatever order.
func sameRules(a, b capability.Rules) bool {
	x, y := a.Strings(), b.Strings()
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// keyless makes an id whose key nobody has.
func keyless() (string, error) {
	id, _, err := newKey()
	return id, err
}

// stale is the fault of a placement that a newer one has taken over from.
func stale(req *kernelv1.BindRequest, epoch uint64) error {
	return fault.New(codes.FailedPrecondition, fault.ReasonEpochFenced, "%s on node %s is at epoch %d: epoch %d cannot bind keys any more", req.GetService(), req.GetNode(), epoch, req.GetEpoch()).
		With("service", req.GetService())
}
