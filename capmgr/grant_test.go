package capmgr_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestGrants(t *testing.T) {
	w, root := start(t)
	key := bustest.NewHandle(t)
	if _, err := root.try(t, &solov1.GrantCapabilityRequest{
		Rules: []string{"svc:alice/*=*"}, Depth: 3, Ttl: hours(2), Label: "alice", PublicKey: key.ID,
		Budget: &solov1.Budget{Services: 5, MemoryBytes: 1 << 20, Lifetime: hours(4)},
	}); err != nil {
		t.Fatal(err)
	}
	alice := dial(t, w, key)
	c := alice.describe(t, &solov1.DescribeCapabilityRequest{}).GetCapability()
	if c.GetId() != key.ID || c.GetParent() != root.ID || c.GetLabel() != "alice" || c.GetDepth() != 3 || !c.GetLive() || c.GetKind() != "holder" || c.GetGrantedAt() == nil {
		t.Errorf("%v", c)
	}
	leaf := alice.grant(t, w, 0, "svc:alice/counter=call:get")

	for name, c := range map[string]struct {
		who    holder
		req    *solov1.GrantCapabilityRequest
		reason string
		says   []string
	}{
		"too wide": {
			alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status", "svc:bob/x=call:get,status"}}, fault.ReasonGrantTooWide,
			[]string{"svc:bob/x=call:get", "svc:bob/x=status", root.ID, "(root)"},
		},
		"wider pattern":   {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:*/a=status"}}, fault.ReasonGrantTooWide, nil},
		"too deep":        {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Depth: 3}, fault.ReasonGrantDepth, []string{"at most 2"}},
		"no depth":        {leaf, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/counter=call:get"}}, fault.ReasonGrantDepth, nil},
		"too long":        {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Ttl: hours(3)}, fault.ReasonGrantExpiry, []string{"1h59m"}},
		"budget":          {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Budget: &solov1.Budget{Services: 6}}, fault.ReasonGrantBudget, []string{"budget.services", "at most 5"}},
		"budget lifetime": {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Budget: &solov1.Budget{Lifetime: hours(5)}}, fault.ReasonGrantBudget, []string{"budget.lifetime"}},
		"key in use":      {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, PublicKey: leaf.ID}, fault.ReasonCapabilityExists, nil},
		"component's key": {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, PublicKey: w.KernelID}, fault.ReasonCapabilityExists, nil},
		"no rules":        {alice, &solov1.GrantCapabilityRequest{}, fault.ReasonInvalidArgument, []string{"rules"}},
		"bad rule":        {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status", "svc:alice=x"}}, fault.ReasonInvalidArgument, []string{"rules[1]"}},
		"bad key":         {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, PublicKey: "U" + strings.Repeat("A", 55)}, fault.ReasonInvalidArgument, []string{"public_key"}},
		"a seed as key":   {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, PublicKey: bustest.NewHandle(t).Seed}, fault.ReasonInvalidArgument, []string{"public_key"}},
		"bad label":       {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Label: "a\x1b[2J"}, fault.ReasonInvalidArgument, []string{"label"}},
		"no time":         {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Ttl: hours(0)}, fault.ReasonInvalidArgument, []string{"ttl"}},
		"all time":        {alice, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Ttl: hours(24 * 365 * 101)}, fault.ReasonInvalidArgument, []string{"ttl"}},
	} {
		_, err := c.who.try(t, c.req)
		if !fault.Is(err, c.reason) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", name, err, s)
			}
		}
	}
	f := refused(t, func() error {
		_, err := alice.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:bob/x=call:get"}})
		return err
	}(), fault.ReasonGrantTooWide)
	if f.Metadata["missing"] != "svc:bob/x=call:get" || f.Metadata["grantors"] != root.ID {
		t.Errorf("%v", f.Metadata)
	}

	// Without a ttl: one hour, or what the parent has left. A budget left open is drawn from the parent's.
	resp, err := alice.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}, Ttl: durationpb.New(time.Minute), Depth: 1, Budget: &solov1.Budget{Services: 2}})
	if err != nil || !strings.HasPrefix(resp.GetHandle(), "SU") {
		t.Fatal(resp, err)
	}
	if want := (&solov1.Budget{Services: 2}); !proto.Equal(resp.GetCapability().GetBudget(), want) {
		t.Errorf("%v", resp.GetCapability().GetBudget())
	}
	short := dial(t, w, bustest.Handle{Seed: resp.GetHandle(), ID: resp.GetCapability().GetId()})
	clamped, err := short.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"svc:alice/a=status"}})
	if err != nil || !clamped.GetCapability().GetExpiresAt().AsTime().Equal(resp.GetCapability().GetExpiresAt().AsTime()) {
		t.Error(clamped, err)
	}
	d := alice.describe(t, &solov1.DescribeCapabilityRequest{})
	if at := d.GetCapability().GetExpiresAt().AsTime(); time.Until(at) > 2*time.Hour || time.Until(at) < time.Hour {
		t.Error(at)
	}
	if len(d.GetChildren()) != 2 {
		t.Errorf("%v", d.GetChildren())
	}
}

func TestRequestIDs(t *testing.T) {
	w, root := start(t)
	key := bustest.NewHandle(t)
	req := &solov1.GrantCapabilityRequest{RequestId: "one", Rules: []string{"svc:a/b=status"}, PublicKey: key.ID}
	first, err := root.try(t, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := root.try(t, req)
	if err != nil || !proto.Equal(first, again) {
		t.Error(again, err)
	}
	other := &solov1.GrantCapabilityRequest{RequestId: "one", Rules: []string{"svc:a/c=status"}, PublicKey: key.ID}
	if _, err := root.try(t, other); !fault.Is(err, fault.ReasonRequestIDReused) {
		t.Error(err)
	}
	made := &solov1.GrantCapabilityRequest{RequestId: "two", Rules: []string{"svc:a/b=status"}}
	first, err = root.try(t, made)
	if err != nil || first.GetHandle() == "" {
		t.Fatal(err)
	}
	_, err = root.try(t, made)
	if f := refused(t, err, fault.ReasonHandleNotRepeatable); f.Metadata["id"] != first.GetCapability().GetId() {
		t.Errorf("%v", f.Metadata)
	}
	// A retry whose first try was cut off after it had happened finds its own grant.
	if _, err := root.try(t, &solov1.GrantCapabilityRequest{RequestId: "three", Rules: req.Rules, PublicKey: key.ID}); err != nil {
		t.Error(err)
	}
	if _, err := root.try(t, &solov1.GrantCapabilityRequest{RequestId: "four", Rules: req.Rules, PublicKey: key.ID, Depth: 1}); !fault.Is(err, fault.ReasonCapabilityExists) {
		t.Error(err)
	}
	revoke := &solov1.RevokeCapabilityRequest{RequestId: "five", Id: key.ID}
	for range 2 {
		resp := &solov1.RevokeCapabilityResponse{}
		if err := root.call(t, "revoke", revoke, resp); err != nil || resp.GetRevokedCount() != 1 {
			t.Error(resp, err)
		}
	}
	if _, err := w.TryDial(t, key); err == nil {
		t.Error("a revoked handle connects")
	}
}

func TestDescribe(t *testing.T) {
	w, root := start(t)
	a := root.grant(t, w, 5, "svc:*/*=*")
	b := a.grant(t, w, 4, "svc:x/*=*")
	var ids []string
	for range 7 {
		ids = append(ids, b.grant(t, w, 0, "svc:x/y=status").ID)
	}
	if _, err := b.revoke(t, ids[2]); err != nil {
		t.Fatal(err)
	}
	d := b.describe(t, &solov1.DescribeCapabilityRequest{})
	if d.GetCapability().GetId() != b.ID || len(d.GetAncestors()) != 2 || d.GetAncestors()[0].GetId() != a.ID || d.GetAncestors()[1].GetId() != root.ID {
		t.Fatalf("%v", d)
	}
	for _, up := range d.GetAncestors() {
		if len(up.GetRules()) > 0 || up.GetDepth() > 0 || !up.GetLive() {
			t.Errorf("of those above it shows who they are and that they live, not what they may do: %v", up)
		}
	}
	if !slices.Equal(a.describe(t, &solov1.DescribeCapabilityRequest{Id: ids[0]}).GetAncestors()[0].GetRules(), []string{"svc:x/*=*"}) {
		t.Error("a does not see what it granted")
	}
	var got []string
	for req := (&solov1.DescribeCapabilityRequest{PageSize: 3}); ; {
		d := b.describe(t, req)
		for _, c := range d.GetChildren() {
			got = append(got, c.GetId())
			if c.GetLive() == (c.GetId() == ids[2]) || (c.GetRevokedAt() != nil) != (c.GetId() == ids[2]) {
				t.Errorf("%v", c)
			}
		}
		if req.PageToken = d.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("%v, want %v", got, ids)
	}
	for _, id := range []string{root.ID, a.ID, bustest.NewHandle(t).ID, "x"} {
		refused(t, b.call(t, "describe", &solov1.DescribeCapabilityRequest{Id: id}, &solov1.DescribeCapabilityResponse{}), fault.ReasonCapabilityNotFound)
	}
	refused(t, b.call(t, "describe", &solov1.DescribeCapabilityRequest{PageToken: "-1"}, &solov1.DescribeCapabilityResponse{}), fault.ReasonInvalidArgument)
}
