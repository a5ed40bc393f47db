package authority

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// begin makes an authority on a real store; the far end of the fence is a table of its own.
func begin(t *testing.T, maxChildren int) (*Authority, rpc.Caller) {
	t.Helper()
	s := jstest.New(t)
	root, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := chain.Seed()
	if err != nil {
		t.Fatal(err)
	}
	table, log := gate.NewTable(), slog.New(slog.DiscardHandler)
	l, err := ledger.Open(t.Context(), ledger.Options{
		JS: s.JS, ChainSeed: string(seed), HeadPath: filepath.Join(t.TempDir(), "caps.head"), RootID: root, Log: log,
		Fence: func(_ context.Context, r *kernelv1.FenceApplyRequest) (*kernelv1.FenceApplyResponse, error) {
			_, err := table.Apply(r.GetEvents())
			return &kernelv1.FenceApplyResponse{}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests, err := idem.Open(t.Context(), s.JS)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{
		Ledger: l, Gate: table, Audit: auditlog.New(s.JS, subject.Capmgr, table, log), Requests: requests,
		Metrics: prometheus.NewRegistry(), Log: log, MaxChildren: maxChildren,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, rpc.Caller{System: subject.System{Component: subject.Capmgr, Op: "grant", Service: subject.Nothing(), ID: root}}
}

func TestChildrenAreBounded(t *testing.T) {
	a, root := begin(t, 3)
	req := &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}}
	var last string
	for range 3 {
		resp, err := a.grant(t.Context(), root, req)
		if err != nil {
			t.Fatal(err)
		}
		last = resp.GetCapability().GetId()
	}
	if _, err := a.grant(t.Context(), root, req); !fault.Is(err, fault.ReasonGrantBudget) || fault.From(err).Retryable {
		t.Error(err)
	}
	if _, err := a.endow(t.Context(), root, &kernelv1.EndowRequest{Service: "x/y", Holder: root.ID, Rules: req.GetRules()}); !fault.Is(err, fault.ReasonGrantBudget) {
		t.Error(err)
	}
	// The dead do not count.
	if _, err := a.revoke(t.Context(), root, &solov1.RevokeCapabilityRequest{Id: last}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.grant(t.Context(), root, req); err != nil {
		t.Error(err)
	}
}

// What a gate let through a moment ago may be dead when its turn comes.
func TestTheDeadAskNothing(t *testing.T) {
	a, root := begin(t, 0)
	resp, err := a.grant(t.Context(), root, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	dead := root
	dead.ID = resp.GetCapability().GetId()
	if _, err := a.revoke(t.Context(), root, &solov1.RevokeCapabilityRequest{Id: dead.ID}); err != nil {
		t.Fatal(err)
	}
	_, grant := a.grant(t.Context(), dead, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}})
	_, revoke := a.revoke(t.Context(), dead, &solov1.RevokeCapabilityRequest{Id: dead.ID})
	_, can := a.can(t.Context(), dead, &solov1.CanRequest{Rule: "svc:x/y=status"})
	_, explain := a.explain(t.Context(), dead, &kernelv1.ExplainRequest{Subject: subject.Call(subject.Service{Namespace: "x", Name: "y"}, "get", dead.ID)})
	for name, err := range map[string]error{"grant": grant, "revoke": revoke, "can": can, "explain": explain} {
		if !fault.Is(err, fault.ReasonHandleRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTraceID(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	for s, want := range map[string]string{"00-" + id + "-00f067aa0ba902b7-01": id, "": "", "00": "", strings.Repeat("x", 60): ""} {
		if got := traceID(s); got != want {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func TestNamesAreRegisteredOnce(t *testing.T) {
	a, _ := begin(t, 0)
	r := prometheus.NewRegistry()
	if _, err := newMetrics(r, a.o.Gate); err != nil {
		t.Fatal(err)
	}
	if _, err := newMetrics(r, a.o.Gate); err == nil {
		t.Error("registered twice")
	}
}
