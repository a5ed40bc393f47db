package authority

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"
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
	"google.golang.org/protobuf/proto"
)

func (a *Authority) grant(ctx context.Context, c rpc.Caller, req *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
	want, err := readTerms(req)
	if err != nil {
		return nil, err
	}
	resp, replayed, err := idem.Do(ctx, a.o.Requests, c, req.GetRequestId(), withoutHandle, func() (*solov1.GrantCapabilityResponse, error) {
		return a.granted(ctx, c, req.GetRequestId(), want)
	})
	if err != nil {
		return nil, a.refuse(c.ID, "grant", "-", err)
	}
	if replayed && want.key == "" {
		id := resp.GetCapability().GetId()
		return nil, fault.New(codes.FailedPrecondition, fault.ReasonHandleNotRepeatable, "request %q was granted on an earlier try as %s, and its handle was never stored", req.GetRequestId(), id).
			With("id", id).Next("revoke %s and grant again under a new request_id, best with a public_key of your own", id)
	}
	return resp, nil
}

func withoutHandle(r *solov1.GrantCapabilityResponse) *solov1.GrantCapabilityResponse {
	return &solov1.GrantCapabilityResponse{Capability: r.GetCapability()}
}

func (a *Authority) granted(ctx context.Context, c rpc.Caller, requestID string, want terms) (*solov1.GrantCapabilityResponse, error) {
	// Decided twice: here, so that what is refused anyway leaves no intent, and in its turn.
	now := a.o.Ledger.State()
	first := want
	if _, taken := now.Table.Get(want.key); taken {
		first = want.unbudgeted()
	}
	if _, err := attenuate(now.Budgets(), c.ID, first, now.Table.Now()); err != nil {
		return nil, err
	}
	if err := a.pace.take(a.o.Gate, c.ID, want); err != nil {
		return nil, err
	}
	id, seed := want.key, ""
	if id == "" {
		var err error
		if id, seed, err = newKey(); err != nil {
			return nil, err
		}
	}
	op, err := a.o.Audit.Intent(ctx, auditlog.Entry{
		Holder: c.ID, Event: "grant", Object: id, RequestID: requestID, ArgumentDigest: c.Digest, TraceID: traceID(c.Traceparent),
		Attributes: map[string]string{"rules": strings.Join(want.rules.Strings(), " "), "depth": strconv.FormatUint(uint64(want.depth), 10), "label": want.label},
	})
	if err != nil {
		return nil, err
	}
	_, err = a.o.Ledger.Do(ctx, func(s *ledger.State) ([]*kernelv1.CapEvent, error) {
		now := s.Table.Now()
		if old, taken := s.Table.Get(id); taken && check.On(check.FreshID) {
			// Asked without what it holds itself: an earlier try may have taken all there was.
			rec, err := attenuate(s.Budgets(), c.ID, want.unbudgeted(), now)
			if err != nil {
				return nil, err
			}
			rec.Budget = want.budget
			if requestID != "" && old.State == gate.Allowed && sameGrant(old.Record, rec) {
				return nil, nil // an earlier try of this request was cut off after it had happened
			}
			return nil, exists(id)
		}
		if a.o.Gate.Component(id) != "" {
			return nil, exists(id)
		}
		rec, err := attenuate(s.Budgets(), c.ID, want, now)
		if err != nil {
			return nil, err
		}
		rec.Id = id
		if err := a.room(s.Table, c.ID); err != nil {
			return nil, err
		}
		return []*kernelv1.CapEvent{ledger.Granted(rec, now)}, nil
	})
	_ = op.Outcome(ctx, err, nil) // the effect stands; what could not be recorded is in the log
	if err != nil {
		return nil, err
	}
	a.metrics.grants.Inc()
	v, _ := a.o.Ledger.State().Table.Get(id)
	return &solov1.GrantCapabilityResponse{Capability: a.message(v), Handle: seed}, nil
}

// sameGrant tells whether a record is what another would be, but for its times.
func sameGrant(old, rec *kernelv1.CapRecord) bool {
	return old.GetKind() == rec.GetKind() && old.GetParent() == rec.GetParent() && old.GetLabel() == rec.GetLabel() &&
		old.GetDepth() == rec.GetDepth() && slices.Equal(old.GetRules(), rec.GetRules()) && proto.Equal(old.GetBudget(), rec.GetBudget())
}

func exists(id string) error {
	return fault.New(codes.AlreadyExists, fault.ReasonCapabilityExists, "%s is in use: a key belongs to one capability for ever", id).
		AddField("public_key", "bring a fresh key").With("id", id)
}

// room refuses one more child of a capability that has too many live ones.
func (a *Authority) room(t *gate.Table, parent string) error {
	v, _ := t.Get(parent)
	if v.Children < a.o.MaxChildren || t.LiveChildren(parent) < a.o.MaxChildren {
		return nil
	}
	return fault.New(codes.ResourceExhausted, fault.ReasonGrantBudget, "capability %s has %d live grants already", parent, a.o.MaxChildren).
		Final().With("object", parent).Next("revoke grants that are not needed any more, or grant through intermediate capabilities")
}

// newKey makes a handle.
func newKey() (id, seed string, err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return "", "", fault.Internal(err, "no key can be made")
	}
	defer kp.Wipe()
	s, serr := kp.Seed()
	id, err = kp.PublicKey()
	if serr != nil || err != nil {
		return "", "", fault.Internal(err, "no key can be made")
	}
	return id, string(s), nil
}
