package authority

import (
	"context"
	"strconv"
	"time"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc/codes"
)

func (a *Authority) revoke(ctx context.Context, c rpc.Caller, req *solov1.RevokeCapabilityRequest) (*solov1.RevokeCapabilityResponse, error) {
	begun := time.Now()
	resp, replayed, err := idem.Do(ctx, a.o.Requests, c, req.GetRequestId(), nil, func() (*solov1.RevokeCapabilityResponse, error) {
		return a.revoked(ctx, c, req)
	})
	if err != nil {
		return nil, a.refuse(c.ID, "revoke", req.GetId(), err)
	}
	if !replayed && resp.GetRevokedCount() > 0 {
		a.metrics.revocation.Observe(milliseconds(time.Since(begun)))
	}
	return resp, nil
}

func (a *Authority) revoked(ctx context.Context, c rpc.Caller, req *solov1.RevokeCapabilityRequest) (*solov1.RevokeCapabilityResponse, error) {
	id := req.GetId()
	if err := revocable(a.o.Ledger.State().Table, c.ID, id); err != nil {
		return nil, err
	}
	op, err := a.o.Audit.Intent(ctx, auditlog.Entry{
		Holder: c.ID, Event: "revoke", Object: id, RequestID: req.GetRequestId(), ArgumentDigest: c.Digest, TraceID: traceID(c.Traceparent),
	})
	if err != nil {
		return nil, err
	}
	r, err := a.o.Ledger.Do(ctx, func(s *ledger.State) ([]*kernelv1.CapEvent, error) {
		v, ok := s.Table.Get(c.ID)
		if err := live(v, ok); err != nil {
			return nil, err
		}
		if v, _ := s.Table.Get(id); v.State == gate.Revoked {
			return nil, nil
		}
		return []*kernelv1.CapEvent{ledger.Revoked(id, c.ID, s.Table.Now())}, nil
	})
	if len(r.Died) > 0 && a.o.Died != nil {
		a.o.Died()
	}
	_ = op.Outcome(ctx, err, map[string]string{ // the effect stands; what could not be recorded is in the log
		"revoked": strconv.Itoa(len(r.Died)), "connections_cut": strconv.FormatUint(uint64(r.ConnectionsCut), 10),
	})
	if err != nil {
		return nil, err
	}
	return &solov1.RevokeCapabilityResponse{RevokedCount: uint32(len(r.Died)), ConnectionsCut: r.ConnectionsCut}, nil
}

// revocable tells whether a holder may revoke an id: itself or what descends from it.
func revocable(t *gate.Table, holder, id string) error {
	v, known := t.Get(id)
	switch {
	case !known:
		return notFound(id)
	case !t.Descends(id, holder) && check.On(check.Below):
		return fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "capability %s was not granted from %s: only itself and its descendants can be revoked with it", id, holder).
			With("holder", holder).With("object", id).Next("ask a holder further up, see `solo caps`")
	case id == holder && v.Record.GetParent() == "":
		return fault.New(codes.FailedPrecondition, fault.ReasonInvalidArgument, "id: the root capability does not revoke itself: nobody could grant anything any more").
			AddField("id", "name a capability granted from it").Next("revoke its children one by one, see `solo caps`")
	}
	return nil
}

func notFound(id string) error {
	const long = 64
	if len(id) > long {
		id = id[:long] + "..."
	}
	return fault.New(codes.NotFound, fault.ReasonCapabilityNotFound, "no capability %s, or none granted from yours", id).
		With("id", id).Next("`solo caps` lists what you have granted")
}
