package subject

import (
	"strings"
	"testing"
)

var id = "U" + strings.Repeat("A", 55)

func TestRoundTrips(t *testing.T) {
	s := Service{"acme", "billing"}
	c, err := ParseCall(Call(s, "charge", id))
	if err != nil || c.Service != s || c.Op != "charge" || c.ID != id {
		t.Errorf("%+v %v", c, err)
	}
	c, err = ParseCall("rev.acme.billing.3.charge." + id)
	if err != nil || c.Service != s || c.Op != "charge" || c.ID != id {
		t.Errorf("%+v %v", c, err)
	}
	y, err := ParseSystem(Sys(Deployer, "deploy", s, id))
	if err != nil || y.Stream || y.Component != Deployer || y.Op != "deploy" || y.Service != s || y.ID != id {
		t.Errorf("%+v %v", y, err)
	}
	y, err = ParseSystem(Str(Registry, "watch", Nothing(), id))
	if err != nil || !y.Stream || y.Service != Nothing() {
		t.Errorf("%+v %v", y, err)
	}
	if op, i, err := ParseFence(Fence(FenceJoin, id)); op != FenceJoin || i != id || err != nil {
		t.Error(op, i, err)
	}
	if op, i, err := ParseControl(Control(ControlHealth, id)); op != ControlHealth || i != id || err != nil {
		t.Error(op, i, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "svc", "svc.a.b.c", "svc.a.b.c." + id + ".x", "svc.a.b.*." + id, "svc.a.b.>." + id, "svc..b.c." + id,
		"svc.a.b.c.", "svc.a.b.c.UAAA", "svc.a.B.c." + id, "svc.-.b.c." + id, "sys.a.b.c." + id, "rev.a.b.x.c." + id,
		"svc.a.b.c.S" + id[1:], "svc.a-.b.c." + id, "svc.a b.c.d." + id,
	} {
		if c, err := ParseCall(s); err == nil {
			t.Errorf("ParseCall(%q) = %+v", s, c)
		}
	}
	for _, s := range []string{"sys.deployer.deploy.a.b", "sys.deployer.deploy.*.b." + id, "xxx.deployer.deploy.a.b." + id, "sys.deployer.deploy.a.b.c." + id} {
		if c, err := ParseSystem(s); err == nil {
			t.Errorf("ParseSystem(%q) = %+v", s, c)
		}
	}
	for _, s := range []string{"fence.x", "fence.join.U", "ctl.join." + id} {
		if _, _, err := ParseFence(s); err == nil {
			t.Errorf("ParseFence(%q)", s)
		}
	}
	if _, _, err := ParseControl("ctl.health"); err == nil {
		t.Error("ParseControl")
	}
}

func TestParseService(t *testing.T) {
	for s, ok := range map[string]bool{
		"a/b": true, "acme/billing-2": true, "a": false, "a/": false, "/b": false, "A/b": false, "a/b/c": false, "a/-": false,
		"a/b-": false, "1a/b": false, strings.Repeat("a", 40) + "/b": true, strings.Repeat("a", 41) + "/b": false, "a.b/c": false,
	} {
		if _, err := ParseService(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add(Call(Service{"a", "b"}, "c", id))
	f.Add("rev.a.b.1.c." + id)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCall(s)
		if err == nil && strings.HasPrefix(s, "svc.") && Call(c.Service, c.Op, c.ID) != s {
			t.Errorf("%q parsed as %+v", s, c)
		}
	})
}

func FuzzParseSystem(f *testing.F) {
	f.Add(Sys("deployer", "deploy", Service{"a", "b"}, id))
	f.Fuzz(func(t *testing.T, s string) {
		y, err := ParseSystem(s)
		if err != nil {
			return
		}
		again := Sys(y.Component, y.Op, y.Service, y.ID)
		if y.Stream {
			again = Str(y.Component, y.Op, y.Service, y.ID)
		}
		if again != s {
			t.Errorf("%q parsed as %+v", s, y)
		}
	})
}

func TestOpsAreWellFormed(t *testing.T) {
	seen := map[Op]bool{}
	for _, o := range Ops() {
		if seen[o] {
			t.Errorf("%+v stands twice", o)
		}
		seen[o] = true
		if !ValidName(o.Component) || !ValidOp(o.Op) || o.Op == StreamCredit {
			t.Errorf("%+v", o)
		}
		if (o.Verb == "") != (o.Scope == Open) && o.Scope != Internal {
			t.Errorf("%+v: verb and scope contradict", o)
		}
	}
}
