package authority

import (
	"context"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/grpc/codes"
)

// bind gives a placement's fresh keys a service's rights, and with that ends the keys of older
// epochs on its node. A service whose rights to call out have ended is bound to answer
// only: its calling key stays unknown to everybody.
func (a *Authority) bind(ctx context.Context, _ rpc.Caller, req *kernelv1.BindRequest) (*kernelv1.BindResponse, error) {
	if err := validBind(req); err != nil {
		return nil, err
	}
	_, err := a.o.Ledger.Do(ctx, func(s *ledger.State) ([]*kernelv1.CapEvent, error) { return a.binding(s, req) })
	if err != nil {
		return nil, err
	}
	return &kernelv1.BindResponse{}, nil
}

func validBind(req *kernelv1.BindRequest) error {
	if err := validService(req.GetService()); err != nil {
		return err
	}
	switch {
	case req.GetNode() == "" || len(req.GetNode()) > 128:
		return fault.Invalid("node", "want a node's name, at most 128 characters")
	case req.GetEpoch() == 0:
		return fault.Invalid("epoch", "want 1 or more")
	case !validKey(req.GetServingKey()):
		return fault.Invalid("serving_key", "want the public key of a user nkey")
	case req.GetCallingKey() != "" && !validKey(req.GetCallingKey()):
		return fault.Invalid("calling_key", "want the public key of a user nkey, or nothing")
	case req.GetCallingKey() == req.GetServingKey():
		return fault.Invalid("calling_key", "want another key than serving_key")
	}
	return nil
}

func (a *Authority) binding(s *ledger.State, req *kernelv1.BindRequest) ([]*kernelv1.CapEvent, error) {
	sv := s.Service(req.GetService())
	if !alive(s.Table, sv.Serving) {
		return nil, fault.New(codes.FailedPrecondition, fault.ReasonServiceNotFound, "%s has no right to answer: it was not endowed, or was disendowed", req.GetService())
	}
	if now := sv.Bound[req.GetNode()]; now.Epoch > req.GetEpoch() {
		return nil, stale(req, now.Epoch)
	} else if now.Epoch == req.GetEpoch() {
		if v, ok := s.Table.Get(req.GetServingKey()); ok && now.ServingKey == req.GetServingKey() && v.Record.GetRevision() == req.GetRevision() &&
			v.Record.GetParent() == sv.Serving && (req.GetCallingKey() == now.CallingKey || now.CallingKey == "") {
			return nil, nil // the same request once more
		}
		return nil, stale(req, now.Epoch)
	}
	at := s.Table.Now()
	bound := func(id, parent string) (*kernelv1.CapEvent, error) {
		if _, taken := s.Table.Get(id); taken || a.o.Gate.Component(id) != "" {
			return nil, exists(id)
		}
		return ledger.Granted(&kernelv1.CapRecord{
			Id: id, Parent: parent, Label: req.GetService() + " on " + req.GetNode(), Kind: kernelv1.CapKind_CAP_KIND_BOUND,
			Service: req.GetService(), Epoch: req.GetEpoch(), Node: req.GetNode(), Revision: req.GetRevision(),
		}, at), nil
	}
	ev, err := bound(req.GetServingKey(), sv.Serving)
	if err != nil {
		return nil, err
	}
	events := []*kernelv1.CapEvent{ev}
	if req.GetCallingKey() == "" {
		return events, nil
	}
	switch v, ok := s.Table.Get(sv.Calling); {
	case !ok:
		return nil, fault.Invalid("calling_key", "%s was granted nothing", req.GetService())
	case v.State == gate.Allowed:
		ev, err := bound(req.GetCallingKey(), sv.Calling)
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
	}
	return events, nil
}
