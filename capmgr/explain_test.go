package capmgr_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func TestCan(t *testing.T) {
	w, root := start(t)
	a := root.grant(t, w, 5, "svc:x/*=*")
	b := a.grant(t, w, 0, "svc:x/y=call:get,status")
	can := func(rule string) (*solov1.CanResponse, error) {
		resp := &solov1.CanResponse{}
		return resp, b.call(t, "can", &solov1.CanRequest{Rule: rule}, resp)
	}
	for _, rule := range []string{"svc:x/y=call:get", "svc:x/y=status"} {
		if resp, err := can(rule); err != nil || !resp.GetAllowed() || resp.GetDenial() != nil {
			t.Error(rule, resp, err)
		}
	}
	resp, err := can("svc:x/y=call:add")
	if err != nil || resp.GetAllowed() {
		t.Fatal(resp, err)
	}
	d := resp.GetDenial()
	if d.GetObject() != "svc:x/y" || d.GetVerb() != "call:add" || d.GetReason() != "NOT_GRANTED" || d.GetSmallestGrant() != "svc:x/y=call:add" ||
		d.GetRetryable() || !slices.Equal(d.GetGrantors(), []string{a.ID, root.ID}) || !strings.Contains(d.GetMessage(), a.ID) {
		t.Errorf("%v", d)
	}
	if resp, err := can("kernel=shutdown"); err != nil || !slices.Equal(resp.GetDenial().GetGrantors(), []string{root.ID}) {
		t.Error(resp, err)
	}
	for _, bad := range []string{"svc:x/y=status,list", "x", "svc:x=status"} {
		if _, err := can(bad); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Error(bad, err)
		}
	}
}

func TestExplain(t *testing.T) {
	w, root := start(t)
	a := root.grant(t, w, 5, "svc:x/*=*")
	b := a.grant(t, w, 0, "svc:x/y=call:get")
	explain := func(s string) (*solov1.Denial, error) {
		resp := &kernelv1.ExplainResponse{}
		err := b.call(t, "explain", &kernelv1.ExplainRequest{Subject: s}, resp)
		return resp.GetDenial(), err
	}
	svc := subject.Service{Namespace: "x", Name: "y"}
	none := subject.Nothing()
	for s, want := range map[string]*solov1.Denial{
		subject.Call(svc, "add", b.ID):                                 {Object: "svc:x/y", Verb: "call:add", Reason: "NOT_GRANTED", SmallestGrant: "svc:x/y=call:add", Grantors: []string{a.ID, root.ID}},
		subject.Sys(subject.Deployer, "kill", svc, b.ID):               {Object: "svc:x/y", Verb: "kill", Reason: "NOT_GRANTED", SmallestGrant: "svc:x/y=kill", Grantors: []string{a.ID, root.ID}},
		subject.Sys(subject.Registry, "list", none, b.ID):              {Object: "svc:*/*", Verb: "list", Reason: "NOT_GRANTED", SmallestGrant: "svc:*/*=list", Grantors: []string{root.ID}},
		subject.Str(subject.Audit, "read", none, b.ID):                 {Object: "audit", Verb: "read", Reason: "NOT_GRANTED", SmallestGrant: "audit=read", Grantors: []string{root.ID}},
		subject.Sys(subject.Kernel, "shutdown", none, b.ID):            {Object: "kernel", Verb: "shutdown", Reason: "NOT_GRANTED", SmallestGrant: "kernel=shutdown", Grantors: []string{root.ID}},
		subject.Sys(subject.Deployer, "upload", none, b.ID):            {Object: "svc:<namespace>/<service>", Verb: "deploy", Reason: "NOT_GRANTED", Grantors: []string{a.ID, root.ID}},
		subject.Sys(subject.Registry, "resolve", bobs(), b.ID):         {Object: "svc:bob/z", Verb: "call", Reason: "NOT_GRANTED", SmallestGrant: "svc:bob/z=call:*", Grantors: []string{root.ID}},
		subject.Call(svc, "get", b.ID):                                 {Object: "svc:x/y", Verb: "call:get", Reason: "UNKNOWN", Retryable: true},
		subject.Call(svc, "get", bustest.NewHandle(t).ID):              {Object: "svc:x/y", Verb: "call:get", Reason: "NOT_GRANTED"},
		subject.Str(subject.Registry, subject.StreamCredit, svc, b.ID): {Object: "svc:x/y", Verb: "watch", Reason: "NOT_GRANTED", SmallestGrant: "svc:x/y=watch", Grantors: []string{a.ID, root.ID}},
	} {
		d, err := explain(s)
		if err != nil || d.GetObject() != want.Object || d.GetVerb() != want.Verb || d.GetReason() != want.Reason || d.GetSmallestGrant() != want.SmallestGrant ||
			d.GetRetryable() != want.Retryable || !slices.Equal(d.GetGrantors(), want.Grantors) || d.GetMessage() == "" {
			t.Errorf("%s: %v %v", s, d, err)
		}
	}
	for s, reason := range map[string]string{
		"":                    fault.ReasonInvalidSubject,
		"$JS.API.INFO":        fault.ReasonInvalidSubject,
		"svc.x.*.get." + b.ID: fault.ReasonInvalidSubject,
		subject.Sys(subject.Capmgr, "grant", none, b.ID):    fault.ReasonInvalidSubject,
		subject.Sys(subject.Capmgr, "bind", none, b.ID):     fault.ReasonUnimplemented,
		subject.Sys(subject.Deployer, "nothing", svc, b.ID): fault.ReasonUnimplemented,
	} {
		if d, err := explain(s); !fault.Is(err, reason) {
			t.Errorf("%s: %v %v", s, d, err)
		}
	}
	// The trail says so within a moment.
	auditor := w.Process(t, subject.Audit)
	waitForRecord(t, auditor.JS, func(r *solov1.AuditRecord) bool {
		return r.GetEvent() == "denied" && r.GetHolder() == b.ID && r.GetObject() == "svc:x/y" && r.GetAttributes()["op"] == "call.add" && r.GetCount() == 1
	})
}

func bobs() subject.Service { return subject.Service{Namespace: "bob", Name: "z"} }

// waitForRecord reads the audit stream until a record is there.
func waitForRecord(t *testing.T, js jetstream.JetStream, is func(*solov1.AuditRecord) bool) {
	t.Helper()
	cons, err := js.OrderedConsumer(t.Context(), stream.Audit, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := cons.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextMaxWait(20 * time.Second))
		if err != nil {
			t.Fatal("no such record:", err)
		}
		if r, err := auditlog.Parse(m.Data()); err == nil && is(r) {
			return
		}
	}
}

func TestAuditTrail(t *testing.T) {
	w, root := start(t)
	a := root.grant(t, w, 0, "svc:x/*=status")
	if _, err := root.revoke(t, a.ID); err != nil {
		t.Fatal(err)
	}
	js := w.Process(t, subject.Audit).JS
	var request string
	for _, event := range []string{"grant", "revoke"} {
		waitForRecord(t, js, func(r *solov1.AuditRecord) bool {
			request = r.GetRequestId()
			return r.GetEvent() == event && r.GetPhase() == "intent" && r.GetObject() == a.ID && r.GetHolder() == root.ID && r.GetArgumentDigest() != "" && request != ""
		})
		waitForRecord(t, js, func(r *solov1.AuditRecord) bool {
			return r.GetEvent() == event && r.GetPhase() == "outcome" && r.GetObject() == a.ID && r.GetDecision() == "done" && r.GetRequestId() == request
		})
	}
}
