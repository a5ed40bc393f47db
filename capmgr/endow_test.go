package capmgr_test

import (
	"context"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

func ask(p *daemon.Process, op string, req, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Peer.Call(ctx, subject.Capmgr, op, subject.Nothing(), req, resp)
}

func endow(t *testing.T, p *daemon.Process, holder string, rules ...string) *kernelv1.EndowResponse {
	t.Helper()
	resp := &kernelv1.EndowResponse{}
	if err := ask(p, "endow", &kernelv1.EndowRequest{Service: "x/y", Holder: holder, Rules: rules}, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

func bind(t *testing.T, p *daemon.Process, epoch uint64, calling bool) (serving, asking bustest.Handle) {
	t.Helper()
	serving, asking = bustest.NewHandle(t), bustest.NewHandle(t)
	req := &kernelv1.BindRequest{Service: "x/y", Revision: 1, Epoch: epoch, Node: bustest.Node, ServingKey: serving.ID}
	if calling {
		req.CallingKey = asking.ID
	}
	for range 2 { // the same again changes nothing
		if err := ask(p, "bind", req, &kernelv1.BindResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	return serving, asking
}

func TestServices(t *testing.T) {
	w, root := start(t)
	p := w.Process(t, subject.Deployer)
	alice := root.grant(t, w, 0, "svc:x/*=*", "svc:z/ledger=call:post")
	rules := []string{"svc:z/ledger=call:post", "svc:x/*=call:get"}

	first := endow(t, p, alice.ID, rules...)
	if first.GetServingId() == "" || first.GetServiceId() == "" || first.GetExpiresAt() == nil {
		t.Fatalf("%v", first)
	}
	if again := endow(t, p, alice.ID, rules[1], rules[0]); !proto.Equal(first, again) {
		t.Errorf("%v, then %v", first, again)
	}
	c := alice.describe(t, &solov1.DescribeCapabilityRequest{Id: first.GetServiceId()}).GetCapability()
	if c.GetKind() != "service" || c.GetParent() != alice.ID || !c.GetLive() || c.GetDepth() != 0 {
		t.Errorf("%v", c)
	}

	serving, calling := bind(t, p, 1, true)
	sc, cc := w.Dial(t, serving), w.Dial(t, calling)
	if _, err := sc.QueueSubscribeSync(subject.CallServing(subject.Service{Namespace: "x", Name: "y"}), "x/y"); err != nil {
		t.Error(err)
	}
	if resp := (&solov1.CanResponse{}); (holder{calling, cc}).call(t, "can", &solov1.CanRequest{Rule: rules[0]}, resp) != nil || !resp.GetAllowed() {
		t.Errorf("%v", resp)
	}
	if _, err := (holder{calling, cc}).try(t, &solov1.GrantCapabilityRequest{Rules: rules}); !fault.Is(err, fault.ReasonGrantDepth) {
		t.Error(err)
	}

	// A newer epoch takes over; an older one, or another placement of the same, cannot.
	serving2, calling2 := bind(t, p, 2, true)
	for _, h := range []bustest.Handle{serving, calling} {
		if w.Fence.Table().Live(h.ID) != gate.Revoked {
			t.Error("a key of epoch 1 is live beside epoch 2")
		}
	}
	for _, epoch := range []uint64{1, 2} {
		req := &kernelv1.BindRequest{Service: "x/y", Revision: 1, Epoch: epoch, Node: bustest.Node, ServingKey: bustest.NewHandle(t).ID}
		refused(t, ask(p, "bind", req, &kernelv1.BindResponse{}), fault.ReasonEpochFenced)
	}

	// Rules that differ end the old rights to call, not the right to answer.
	other := endow(t, p, alice.ID, rules[0])
	if other.GetServingId() != first.GetServingId() || other.GetServiceId() == first.GetServiceId() {
		t.Errorf("%v", other)
	}
	live(t, w, serving2.ID, gate.Allowed)
	live(t, w, calling2.ID, gate.Revoked)
	_, calling3 := bind(t, p, 3, true)

	// What a service deploys hangs from its record, not from a placement's passing key.
	nested := &kernelv1.EndowResponse{}
	if err := ask(p, "endow", &kernelv1.EndowRequest{Service: "x/nested", Holder: calling3.ID, Rules: rules[:1]}, nested); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.Fence.Table().Get(nested.GetServiceId()); v.Record.GetParent() != other.GetServiceId() {
		t.Errorf("%v", v.Record)
	}

	// The rights to call end with the holder; the service answers on, and can be bound again.
	if _, err := root.revoke(t, alice.ID); err != nil {
		t.Fatal(err)
	}
	live(t, w, calling3.ID, gate.Revoked)
	serving4, calling4 := bind(t, p, 4, true)
	live(t, w, serving4.ID, gate.Allowed)
	live(t, w, calling4.ID, gate.Unknown)
	w.Dial(t, serving4)

	// Nothing granted any more.
	if none := endow(t, p, root.ID); none.GetServiceId() != "" || none.GetServingId() != first.GetServingId() || none.GetExpiresAt() != nil {
		t.Errorf("%v", none)
	}

	for range 2 {
		if err := ask(p, "disendow", &kernelv1.DisendowRequest{Service: "x/y"}, &kernelv1.DisendowResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	live(t, w, serving4.ID, gate.Revoked)
	refused(t, ask(p, "bind", &kernelv1.BindRequest{Service: "x/y", Revision: 1, Epoch: 9, Node: bustest.Node, ServingKey: bustest.NewHandle(t).ID}, &kernelv1.BindResponse{}), fault.ReasonServiceNotFound)
	// Made anew, it begins with epoch 1 again.
	if anew := endow(t, p, root.ID, rules...); anew.GetServingId() == first.GetServingId() || anew.GetExpiresAt() != nil {
		t.Errorf("%v", anew)
	}
	serving5, _ := bind(t, p, 1, false)
	live(t, w, serving5.ID, gate.Allowed)
}

func live(t *testing.T, w *bustest.World, id string, want gate.Decision) {
	t.Helper()
	if d := w.Fence.Table().Live(id); d != want {
		t.Errorf("%s, want %s", d, want)
	}
}

func TestServicesRefused(t *testing.T) {
	w, root := start(t)
	p := w.Process(t, subject.Deployer)
	alice := root.grant(t, w, 0, "svc:x/*=*")
	for name, c := range map[string]struct {
		req    *kernelv1.EndowRequest
		reason string
	}{
		"too wide":     {&kernelv1.EndowRequest{Service: "x/y", Holder: alice.ID, Rules: []string{"svc:bob/z=call:get"}}, fault.ReasonGrantTooWide},
		"checked only": {&kernelv1.EndowRequest{Service: "x/y", Holder: alice.ID, Rules: []string{"svc:bob/z=call:get"}, ValidateOnly: true}, fault.ReasonGrantTooWide},
		"bad rule":     {&kernelv1.EndowRequest{Service: "x/y", Holder: alice.ID, Rules: []string{"x"}}, fault.ReasonInvalidArgument},
		"many rules":   {&kernelv1.EndowRequest{Service: "x/y", Holder: alice.ID, Rules: make([]string, 65)}, fault.ReasonInvalidArgument},
		"bad service":  {&kernelv1.EndowRequest{Service: "x", Holder: alice.ID}, fault.ReasonInvalidArgument},
		"unknown":      {&kernelv1.EndowRequest{Service: "x/y", Holder: bustest.NewHandle(t).ID}, fault.ReasonHandleRefused},
	} {
		if err := ask(p, "endow", c.req, &kernelv1.EndowResponse{}); !fault.Is(err, c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ask(p, "endow", &kernelv1.EndowRequest{Service: "x/y", Holder: alice.ID, Rules: []string{"svc:x/y=list"}, ValidateOnly: true}, &kernelv1.EndowResponse{}); err != nil {
		t.Error(err)
	}
	if all, _ := w.Fence.Table().Count(); all != 2 {
		t.Errorf("%d records: a check left some", all)
	}
	endow(t, p, alice.ID)
	a, b := bustest.NewHandle(t).ID, bustest.NewHandle(t).ID
	for name, c := range map[string]struct {
		req    *kernelv1.BindRequest
		reason string
	}{
		"service":         {&kernelv1.BindRequest{Service: "x", Epoch: 1, Node: "n", ServingKey: a}, fault.ReasonInvalidArgument},
		"node":            {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, ServingKey: a}, fault.ReasonInvalidArgument},
		"epoch":           {&kernelv1.BindRequest{Service: "x/y", Node: "n", ServingKey: a}, fault.ReasonInvalidArgument},
		"key":             {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: "U"}, fault.ReasonInvalidArgument},
		"second key":      {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: a, CallingKey: "U"}, fault.ReasonInvalidArgument},
		"same keys":       {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: a, CallingKey: a}, fault.ReasonInvalidArgument},
		"granted nothing": {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: a, CallingKey: b}, fault.ReasonInvalidArgument},
		"taken":           {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: alice.ID}, fault.ReasonCapabilityExists},
		"component's":     {&kernelv1.BindRequest{Service: "x/y", Epoch: 1, Node: "n", ServingKey: p.Peer.ID}, fault.ReasonCapabilityExists},
	} {
		if err := ask(p, "bind", c.req, &kernelv1.BindResponse{}); !fault.Is(err, c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused(t, ask(p, "disendow", &kernelv1.DisendowRequest{Service: "/"}, &kernelv1.DisendowResponse{}), fault.ReasonInvalidArgument)
	// Another component, and a holder, may not ask at all.
	gateway := w.Process(t, subject.Gateway)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := gateway.Peer.Call(short, subject.Capmgr, "disendow", subject.Nothing(), &kernelv1.DisendowRequest{Service: "x/y"}, &kernelv1.DisendowResponse{}); err == nil {
		t.Error("the gateway may disendow")
	}
}
