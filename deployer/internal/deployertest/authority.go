package deployertest

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Authority answers for the capability manager, on the real chain and fence of the world.
type Authority struct {
	t testing.TB
	w *bustest.World

	mu       sync.Mutex
	services map[string]*kernelv1.EndowResponse // mu
	endowed  func(*kernelv1.EndowRequest)       // mu
}

// StartAuthority serves until the test ends.
func StartAuthority(t testing.TB, w *bustest.World) *Authority {
	t.Helper()
	a := &Authority{t: t, w: w, services: map[string]*kernelv1.EndowResponse{}}
	p := w.Process(t, subject.Capmgr)
	serve(t, p, func(s *rpc.Server) {
		rpc.Handle(s, "bind", a.bind)
		rpc.Handle(s, "disendow", a.disendow)
		rpc.Handle(s, "endow", func(ctx context.Context, c rpc.Caller, req *kernelv1.EndowRequest) (*kernelv1.EndowResponse, error) {
			v, ok := p.Table.Get(req.GetHolder())
			rules, err := capability.ParseRules(req.GetRules())
			if err != nil {
				return nil, fault.Invalid("rules", "%v", err)
			}
			if missing := v.Rules.Missing(rules); !ok || len(missing) > 0 {
				return nil, fault.New(codes.PermissionDenied, fault.ReasonGrantTooWide, "the holder does not have %v", missing.Strings())
			}
			resp, err := a.endow(req)
			a.mu.Lock()
			told := a.endowed
			a.mu.Unlock()
			if told != nil {
				told(req)
			}
			return resp, err
		})
	})
	return a
}

func (a *Authority) endow(req *kernelv1.EndowRequest) (*kernelv1.EndowResponse, error) {
	if req.GetValidateOnly() {
		return &kernelv1.EndowResponse{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoke(req.GetService())
	resp := &kernelv1.EndowResponse{ServingId: bustest.NewHandle(a.t).ID}
	a.w.Record(a.t, &kernelv1.CapRecord{Id: resp.ServingId, Kind: kernelv1.CapKind_CAP_KIND_SERVING, Service: req.GetService()})
	if len(req.GetRules()) > 0 {
		resp.ServiceId = bustest.NewHandle(a.t).ID
		a.w.Record(a.t, &kernelv1.CapRecord{
			Id: resp.ServiceId, Parent: req.GetHolder(), Kind: kernelv1.CapKind_CAP_KIND_SERVICE, Service: req.GetService(), Rules: req.GetRules(),
		})
	}
	a.services[req.GetService()] = resp
	return resp, nil
}

// OnEndow has f told of every endowment and check of one, when it is done and not yet answered; nil ends
// that.
func (a *Authority) OnEndow(f func(*kernelv1.EndowRequest)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endowed = f
}

// revoke ends the records of a service. a.mu is held.
func (a *Authority) revoke(service string) {
	have := a.services[service]
	for _, id := range []string{have.GetServingId(), have.GetServiceId()} {
		if id != "" {
			a.w.Revoke(a.t, id)
		}
	}
	delete(a.services, service)
}

// Records of a service, nil when it has none.
func (a *Authority) Records(service string) *kernelv1.EndowResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.services[service]
}

func (a *Authority) bind(_ context.Context, _ rpc.Caller, req *kernelv1.BindRequest) (*kernelv1.BindResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.services[req.GetService()]
	if have == nil {
		return nil, fault.New(codes.FailedPrecondition, fault.ReasonCapabilityNotFound, "%s has no records", req.GetService())
	}
	for parent, key := range map[string]string{have.GetServingId(): req.GetServingKey(), have.GetServiceId(): req.GetCallingKey()} {
		if key == "" {
			continue
		}
		a.w.Record(a.t, &kernelv1.CapRecord{
			Id: key, Parent: parent, Kind: kernelv1.CapKind_CAP_KIND_BOUND, Service: req.GetService(), Epoch: req.GetEpoch(), Node: req.GetNode(), Revision: req.GetRevision(),
		})
	}
	return &kernelv1.BindResponse{}, nil
}

func (a *Authority) disendow(_ context.Context, _ rpc.Caller, req *kernelv1.DisendowRequest) (*kernelv1.DisendowResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoke(req.GetService())
	return &kernelv1.DisendowResponse{}, nil
}
