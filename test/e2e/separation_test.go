package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	checks "github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
)

// With every gate switched off, the server alone must keep alice out of bob's namespace. That
// the gates are off is shown by the unit tests of bus/gate under the same tag.
func TestTheServerAloneSeparatesNamespaces(t *testing.T) {
	w := newWorld(t, build(t, "checksoff"), checks.Variable+"="+string(checks.Gate))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	alice := grant(t, w, "alice", "svc:alice/*=*")
	for _, s := range []string{"alice/counter", "bob/counter"} {
		solo(t, w, "", "deploy", s, examples(t)+"/counter", "--format", "go")
	}
	seed, err := world.Handle(alice)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := w.Raw(ctx, seed)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()

	mine, theirs := subject.Service{Namespace: "alice", Name: "counter"}, subject.Service{Namespace: "bob", Name: "counter"}
	if m, err := raw.RequestWithContext(ctx, subject.Call(mine, "get", raw.ID), nil); err != nil || strings.TrimSpace(string(m.Data)) != "0" {
		t.Fatalf("alice cannot call her own service: %v %v", m, err)
	}
	ops := subject.Ops()
	subjects := []string{subject.Call(theirs, "get", raw.ID), subject.Call(theirs, "add", raw.ID)}
	for _, o := range ops {
		for _, s := range []subject.Service{theirs, {Namespace: "bob", Name: subject.None}, subject.Nothing()} {
			if (o.Scope == subject.Open || o.Scope == subject.Anywhere) && s == subject.Nothing() {
				continue // hers by right
			}
			if o.Stream {
				subjects = append(subjects, subject.Str(o.Component, o.Op, s, raw.ID), subject.Str(o.Component, subject.StreamCredit, s, raw.ID))
			} else {
				subjects = append(subjects, subject.Sys(o.Component, o.Op, s, raw.ID))
			}
		}
	}
	for _, s := range subjects {
		if err := raw.PublishRequest(s, raw.NewInbox(), nil); err != nil {
			t.Fatal(err)
		}
		if err := raw.FlushWithContext(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case why := <-raw.Refused:
			if !strings.Contains(why, s) {
				t.Errorf("%s: the server said %q", s, why)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("the server lets alice publish %s", s)
		}
	}
	for _, s := range []string{"svc.bob.>", "svc.>", "sys.>", "_INBOX.>", "evt.>", "audit.>", ">", "svc.alice.counter.*.*", "_R_.>", "$SYS.>"} {
		sub, err := raw.SubscribeSync(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.FlushWithContext(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case why := <-raw.Refused:
			if !strings.Contains(strings.ToLower(why), "permissions violation") {
				t.Errorf("subscribing %s: the server said %q", s, why)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("the server lets alice subscribe %s", s)
		}
		_ = sub.Unsubscribe() // it never was one
	}
	if m, err := raw.RequestWithContext(ctx, subject.Call(mine, "get", raw.ID), nil); err != nil {
		t.Fatalf("after all that alice cannot call her own service: %v %v", m, err)
	}
}
