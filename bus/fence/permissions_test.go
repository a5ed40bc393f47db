package fence

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/subject"
)

func roles() []string {
	return []string{
		Bootstrap, subject.Kernel, subject.Capmgr, subject.Registry, subject.Resmon, subject.Deployer,
		subject.Audit, subject.Gateway, subject.Runner, subject.Keeper,
	}
}

func newID(t *testing.T) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	id, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func matches(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		p, _, _ = strings.Cut(p, " ")
		return server.SubjectsCollide(p, s)
	})
}

// What each role may publish of what matters, and nothing else of it.
func TestRolesPublish(t *testing.T) {
	id, other := newID(t), newID(t)
	any := subject.Service{Namespace: "acme", Name: "billing"}
	cases := []struct {
		subject string
		roles   []string
	}{
		{subject.Caps, []string{subject.Capmgr}},
		{subject.Fence(subject.FenceApply, id), []string{subject.Capmgr}},
		{subject.Fence(subject.FenceAdmit, id), []string{subject.Deployer}},
		{subject.Fence(subject.FenceDismiss, id), []string{subject.Deployer}},
		{subject.Fence(subject.FenceApply, other), nil},
		{subject.Fence(subject.FenceJoin, other), nil},
		{subject.GatePush(id), []string{subject.Kernel}},
		{subject.GateLease, []string{subject.Kernel}},
		{subject.Control(subject.ControlDrain, other), []string{subject.Kernel}},
		{subject.Control(subject.ControlEnd, other), []string{subject.Kernel}},
		{subject.Control(subject.ControlHealth, other), []string{subject.Kernel, subject.Resmon}},
		{subject.Control(subject.ControlMetrics, other), []string{subject.Resmon}},
		{subject.Samples("n"), []string{subject.Resmon}},
		{subject.Event(any, "deployed"), []string{subject.Registry}},
		{subject.Log(any, "i"), []string{subject.Deployer}},
		{subject.AuditEvent(subject.Capmgr, "grant"), []string{subject.Capmgr}},
		{subject.AuditEvent(subject.Kernel, "shutdown"), []string{subject.Kernel}},
		{subject.Sys(subject.Capmgr, "bind", subject.Nothing(), id), []string{subject.Deployer}},
		{subject.Sys(subject.Capmgr, "bind", subject.Nothing(), other), nil},
		{subject.Sys(subject.Capmgr, "grant", subject.Nothing(), id), nil},
		{subject.Sys(subject.Registry, "put", any, id), []string{subject.Deployer}},
		{subject.Sys(subject.Deployer, "enforce", any, id), []string{subject.Resmon}},
		{subject.Sys(subject.Deployer, "deploy", any, id), nil},
		{subject.Call(any, "charge", id), nil},
		{"$KV.registry.svc.a.b", []string{subject.Registry}},
		{"$KV.nodes.n", []string{subject.Registry}},
		{"$KV.state.a.b", []string{subject.Keeper}},
		{"$KV.crashes.a", []string{subject.Deployer}},
		{"$KV.requests.x", []string{subject.Capmgr, subject.Deployer}},
		{"$O.artifacts.C.x", []string{subject.Deployer}},
		{"$JS.API.STREAM.CREATE.CAPS", []string{Bootstrap}},
		{"$JS.API.STREAM.UPDATE.CAPS", []string{Bootstrap}},
		{"$JS.API.STREAM.DELETE.CAPS", nil},
		{"$JS.API.STREAM.PURGE.CAPS", nil},
		{"$JS.API.STREAM.PURGE." + stream.KVStream(stream.Registry), nil},
		{"$JS.API.STREAM.PURGE." + stream.ObjStream(stream.Artifacts), []string{subject.Deployer}},
		{"$JS.API.STREAM.MSG.DELETE.CAPS", nil},
		{"$JS.API.STREAM.MSG.GET.CAPS", []string{subject.Kernel, subject.Capmgr}},
		{"$JS.API.STREAM.MSG.GET.AUDIT", []string{subject.Audit}},
		{"$JS.API.CONSUMER.CREATE.AUDIT.x", []string{subject.Audit, subject.Capmgr}},
		{"$JS.API.CONSUMER.DELETE.AUDIT.x", []string{subject.Audit, subject.Capmgr}},
		{"$JS.API.CONSUMER.NAMES.AUDIT", []string{subject.Capmgr}},
		{"$JS.API.CONSUMER.MSG.NEXT.AUDIT.x", []string{subject.Audit}},
		{"$JS.ACK.AUDIT.x.1.1.1.1.1", []string{subject.Audit}},
		{"$JS.API.CONSUMER.CREATE.LOGS.x", []string{subject.Deployer}},
		{"$JS.API.CONSUMER.CREATE.EVENTS.x", []string{subject.Registry}},
		{"$JS.API.STREAM.NAMES", nil},
		{"$JS.API.STREAM.LIST", nil},
		{"$JS.API.INFO", nil},
		{"$SYS.REQ.SERVER.PING", nil},
		{"anything", nil},
	}
	for _, role := range roles() {
		p, err := component(role, id)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		for _, c := range cases {
			if got, want := matches(p.Publish.Allow, c.subject), slices.Contains(c.roles, role); got != want {
				t.Errorf("%s may publish %s: %t, want %t", role, c.subject, got, want)
			}
		}
	}
}

// What each role may listen to.
func TestRolesSubscribe(t *testing.T) {
	id, other := newID(t), newID(t)
	answering := []string{subject.Kernel, subject.Capmgr, subject.Registry, subject.Resmon, subject.Deployer, subject.Audit}
	framed := append([]string{subject.Gateway}, answering...)
	gates := append(slices.Clone(framed[2:]), subject.Gateway, subject.Runner, subject.Keeper)
	cases := []struct {
		subject string
		roles   []string
	}{
		{"_INBOX." + id + ".x", roles()},
		{"_INBOX." + other + ".x", nil},
		{subject.GatePush(id), gates},
		{subject.GatePush(other), nil},
		{subject.GateLease, gates},
		{subject.Control(subject.ControlDrain, id), framed},
		{subject.Control(subject.ControlDrain, other), nil},
		{subject.Fence(subject.FenceApply, other), []string{subject.Kernel}},
		{subject.Samples("n"), []string{subject.Registry}},
		{subject.Event(subject.Service{Namespace: "a", Name: "b"}, "x"), []string{subject.Resmon}},
		{subject.Caps, nil},
		{subject.AuditEvent(subject.Capmgr, "grant"), nil},
		{"$KV.registry.x", nil},
		{"$JS.API.STREAM.INFO.CAPS", nil},
		{"log.a.b.c", nil},
		{"_R_.x", nil},
	}
	for _, c := range answering {
		cases = append(cases, struct {
			subject string
			roles   []string
		}{subject.Sys(c, "x", subject.Nothing(), other), []string{c}})
	}
	for _, role := range roles() {
		p, err := component(role, id)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		for _, c := range cases {
			if got, want := matches(p.Subscribe.Allow, c.subject), slices.Contains(c.roles, role); got != want {
				t.Errorf("%s may subscribe %s: %t, want %t", role, c.subject, got, want)
			}
		}
	}
}

// Whoever asks can publish nothing that does not end in its own id, and whoever answers can
// publish nothing at all of its own accord.
func TestHoldersAndServices(t *testing.T) {
	id := newID(t)
	rules, err := capability.ParseRules([]string{"svc:*/*=*", "audit=*", "kernel=*", "egress:*:*=*"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := holder(id, rules)
	if err != nil {
		t.Fatal(err)
	}
	door := []string{subject.TrailNext(id), subject.TrailInfo(id), subject.TrailAck(id)}
	for _, s := range p.Publish.Allow {
		if slices.Contains(door, s) {
			continue
		}
		if !strings.HasSuffix(s, "."+id) || strings.Contains(s, ">") {
			t.Errorf("a holder may publish %s", s)
		}
		if root, _, _ := strings.Cut(s, "."); root != "svc" && root != "sys" && root != "str" {
			t.Errorf("a holder may publish %s", s)
		}
	}
	if !slices.Equal(p.Subscribe.Allow, []string{"_INBOX." + id + ".>"}) || p.Response != nil {
		t.Errorf("a holder may subscribe %v, response %v", p.Subscribe.Allow, p.Response)
	}
	p, err = serving(subject.Service{Namespace: "acme", Name: "billing"}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if p.Publish.Allow == nil || len(p.Publish.Allow) != 0 {
		t.Errorf("a service may publish %v", p.Publish.Allow)
	}
	if p.Response == nil || p.Response.MaxMsgs != 1 || p.Response.Expires <= 0 {
		t.Errorf("answers of a service: %v", p.Response)
	}
	for _, s := range p.Subscribe.Allow {
		if !strings.HasSuffix(s, " acme/billing") {
			t.Errorf("a service may subscribe %q outside its queue group", s)
		}
	}
}

// The server would read an open side as everything, and drop a bad pattern without a word.
func TestCompileRefuses(t *testing.T) {
	ok := []string{"a.b"}
	for name, f := range map[string]func() error{
		"no publish side":    func() error { _, err := compile(nil, ok, nil, nil); return err },
		"no subscribe side":  func() error { _, err := compile(ok, nil, nil, nil); return err },
		"empty subscribe":    func() error { _, err := compile(ok, []string{}, nil, nil); return err },
		"empty token":        func() error { _, err := compile([]string{"a..b"}, ok, nil, nil); return err },
		"space":              func() error { _, err := compile([]string{"a b"}, ok, nil, nil); return err },
		"everything":         func() error { _, err := compile([]string{">"}, ok, nil, nil); return err },
		"leading wildcard":   func() error { _, err := compile(ok, []string{"*.b"}, nil, nil); return err },
		"wild queue":         func() error { _, err := compile(ok, []string{"a.b q*"}, nil, nil); return err },
		"two queues":         func() error { _, err := compile(ok, []string{"a.b q r"}, nil, nil); return err },
		"bad deny":           func() error { _, err := compile(ok, ok, []string{"a.>.b"}, nil); return err },
		"role nobody has":    func() error { _, err := component("janitor", newID(t)); return err },
		"> before the end":   func() error { _, err := compile([]string{"a.>.b"}, ok, nil, nil); return err },
		"empty pattern":      func() error { _, err := compile([]string{""}, ok, nil, nil); return err },
		"line feed in topic": func() error { _, err := compile([]string{"a\nb"}, ok, nil, nil); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
