package capmgr_test

import (
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/durationpb"
)

// pocket grants a holder a budget and connects as it.
func (h holder) pocket(t *testing.T, w *bustest.World, depth uint32, b *solov1.Budget) holder {
	t.Helper()
	key := bustest.NewHandle(t)
	if _, err := h.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/*=*"}, Depth: depth, PublicKey: key.ID, Budget: b}); err != nil {
		t.Fatal(err)
	}
	return dial(t, w, key)
}

func TestBudgetsHoldOverTheSubtree(t *testing.T) {
	w, root := start(t)
	p := w.Process(t, subject.Deployer)
	deploy := func(holder, service string, memory uint64, only bool) error {
		return ask(p, "endow", &kernelv1.EndowRequest{Service: service, Holder: holder, MemoryBytes: memory, ValidateOnly: only}, &kernelv1.EndowResponse{})
	}
	stop := func(service string) {
		t.Helper()
		if err := ask(p, "disendow", &kernelv1.DisendowRequest{Service: service}, &kernelv1.DisendowResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	alice := root.grant(t, w, 4, "svc:x/*=*")
	a := alice.pocket(t, w, 3, &solov1.Budget{Services: 3, MemoryBytes: 100, CallsPerSecond: 10})
	b := a.pocket(t, w, 2, &solov1.Budget{Services: 2, MemoryBytes: 50})

	// What was passed on is gone from the one who passed it on.
	for field, want := range map[string]*solov1.Budget{
		"budget.services": {Services: 2}, "budget.memory_bytes": {MemoryBytes: 51}, "budget.calls_per_second": {CallsPerSecond: 11},
	} {
		_, err := a.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, Budget: want})
		if f := refused(t, err, fault.ReasonGrantBudget); !strings.HasPrefix(f.Message, field+": at most") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if u := a.describe(t, &solov1.DescribeCapabilityRequest{}).GetCapability().GetUsed(); u.GetServices() != 2 || u.GetMemoryBytes() != 50 {
		t.Errorf("%v", u)
	}
	// One without a budget of its own draws on what is above it.
	c := b.grant(t, w, 0, "svc:x/*=*")
	for service, memory := range map[string]uint64{"x/one": 20, "x/two": 30} {
		if err := deploy(c.ID, service, memory, false); err != nil {
			t.Fatal(err)
		}
	}
	err := deploy(c.ID, "x/three", 0, false)
	f := refused(t, err, fault.ReasonBudget)
	if f.Metadata["budget"] != "services" || f.Metadata["object"] != b.ID || f.Metadata["used"] != "2" || f.Metadata["smallest_grant"] != "budget.services=1" {
		t.Errorf("%v", f.Metadata)
	}
	// a has one service left, so it could give it; alice and root are not bounded.
	if f.Metadata["grantors"] != strings.Join([]string{a.ID, alice.ID, root.ID}, " ") {
		t.Errorf("%v", f.Metadata)
	}
	if can := (&solov1.CanResponse{}); c.call(t, "can", &solov1.CanRequest{Rule: "svc:x/three=deploy"}, can) != nil || can.GetAllowed() || can.GetDenial().GetReason() != "BUDGET" {
		t.Errorf("%v", can)
	}
	// The same service again gives back first what it took, and takes no more than there is.
	if err := deploy(c.ID, "x/one", 20, false); err != nil {
		t.Error(err)
	}
	if f := refused(t, deploy(c.ID, "x/one", 21, true), fault.ReasonBudget); f.Metadata["budget"] != "memory_bytes" || f.Metadata["asked"] != "21" {
		t.Errorf("%v", f.Metadata)
	}
	// Killing frees, and revoking gives back all but what still runs.
	stop("x/one")
	if err := deploy(c.ID, "x/three", 20, false); err != nil {
		t.Error(err)
	}
	if _, err := a.revoke(t, b.ID); err != nil {
		t.Fatal(err)
	}
	if u := a.describe(t, &solov1.DescribeCapabilityRequest{}).GetCapability().GetUsed(); u.GetServices() != 2 || u.GetMemoryBytes() != 50 {
		t.Errorf("services of a dead holder: %v", u)
	}
	if _, err := a.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, Budget: &solov1.Budget{Services: 1}}); err != nil {
		t.Error(err)
	}
	refused(t, deploy(a.ID, "x/four", 1, false), fault.ReasonBudget)
}

func TestALifetimeBoundsAllBelow(t *testing.T) {
	w, root := start(t)
	p := w.Process(t, subject.Deployer)
	a := root.pocket(t, w, 3, &solov1.Budget{Lifetime: durationpb.New(10 * time.Minute)})
	_, err := a.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, Ttl: hours(1)})
	if f := refused(t, err, fault.ReasonGrantBudget); f.Metadata["max_ttl"] != "10m0s" {
		t.Errorf("%v", f)
	}
	resp, err := a.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}})
	if err != nil || time.Until(resp.GetCapability().GetExpiresAt().AsTime()) > 10*time.Minute {
		t.Errorf("%v %v", resp, err)
	}
	made := &kernelv1.EndowResponse{}
	if err := ask(p, "endow", &kernelv1.EndowRequest{Service: "x/y", Holder: a.ID}, made); err != nil {
		t.Fatal(err)
	}
	v, ok := p.Table.Get(made.GetServingId())
	if left := time.Until(v.Expires); !ok || left <= 0 || left > 10*time.Minute {
		t.Errorf("the service may answer for %s", left)
	}
}

// A retry of a grant that took all there was finds its own grant.
func TestARetryDoesNotPayTwice(t *testing.T) {
	w, root := start(t)
	a := root.pocket(t, w, 3, &solov1.Budget{Services: 2})
	req := &solov1.GrantCapabilityRequest{Rules: []string{"svc:x/y=status"}, PublicKey: bustest.NewHandle(t).ID, Budget: &solov1.Budget{Services: 2}}
	for _, id := range []string{"one", "two"} {
		req.RequestId = id
		if _, err := a.try(t, req); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
