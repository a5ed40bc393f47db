package capability

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/solo-os/solo/proto/subject"
	"pgregory.net/rapid"
)

var id = "U" + strings.Repeat("B", 55)

func must(t testing.TB, ss ...string) Rules {
	t.Helper()
	rs, err := ParseRules(ss)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestParseRule(t *testing.T) {
	for s, want := range map[string]string{
		"svc:acme/billing=call:charge,status": "", "svc:*/*=*": "", "svc:acme/*=call:*": "", "audit=read": "", "audit=*": "",
		"kernel=shutdown,nodes": "", "egress:api.example.com:443=connect": "", "egress:*:*=connect": "",
		"svc:a/b=status,status": "svc:a/b=status",
		"":                      "!", "svc:a/b": "!", "svc:a/b=": "!", "svc:a=call:x": "!", "svc:A/b=status": "!", "svc:a/b=call:": "!",
		"svc:a/b=call:X": "!", "svc:a/b=fly": "!", "audit=call:x": "!", "egress:h:0=connect": "!", "egress:h:70000=connect": "!",
		"egress:H:1=connect": "!", "egress:h:080=connect": "!", "svc:a/b/c=status": "!", "svc:a/>=status": "!", "svc:a/b=*,": "!", "x:y=z": "!",
	} {
		r, err := ParseRule(s)
		switch {
		case want == "!" && err == nil:
			t.Errorf("%q: no error, %v", s, r)
		case want == "" && (err != nil || r.String() != s), want != "" && want != "!" && r.String() != want:
			t.Errorf("%q: %v %v", s, r, err)
		}
	}
	if _, err := ParseRules(make([]string, MaxRules+1)); err == nil {
		t.Error("too many rules accepted")
	}
	if _, err := ParseRules([]string{"svc:a/b=status", "nope"}); err == nil || !strings.Contains(err.Error(), "rules[1]") {
		t.Errorf("%v", err)
	}
}

// universe is every object and verb over a small alphabet; names not in any rule stand for
// the rest of the unbounded alphabet.
func universe() (out []Need) {
	for _, a := range []string{"a", "b", "zz"} {
		for _, b := range []string{"x", "y", "zz"} {
			for _, v := range []Verb{"call:p", "call:q", "call:zz", "deploy", "update", "kill", "status", "list", "logs", "watch"} {
				out = append(out, Need{Object{Service, a, b}, v})
			}
			out = append(out, Need{Object{Egress, a, "443"}, "connect"}, Need{Object{Egress, a, "81"}, "connect"})
		}
	}
	out = append(out, Need{Object{Kind: Audit}, "read"})
	for _, v := range verbs(Kernel) {
		out = append(out, Need{Object{Kind: Kernel}, v})
	}
	return out
}

func genRule(t *rapid.T, label string) Rule {
	p := func(vs ...string) string { return rapid.SampledFrom(vs).Draw(t, label) }
	var o Object
	var vs []string
	switch p("svc", "svc", "svc", "audit", "kernel", "egress") {
	case "svc":
		o, vs = Object{Service, p("a", "b", "*"), p("x", "y", "*")}, []string{"call:p", "call:q", "call:*", "deploy", "update", "kill", "status", "list", "logs", "watch", "*"}
	case "audit":
		o, vs = Object{Kind: Audit}, []string{"read", "*"}
	case "kernel":
		o, vs = Object{Kind: Kernel}, []string{"shutdown", "nodes", "usage", "*"}
	case "egress":
		o, vs = Object{Egress, p("a", "b", "*"), p("443", "*")}, []string{"connect", "*"}
	}
	r := Rule{Object: o}
	for range rapid.IntRange(1, len(vs)).Draw(t, "n") {
		if v := Verb(p(vs...)); !slices.Contains(r.Verbs, v) {
			r.Verbs = append(r.Verbs, v)
		}
	}
	return r
}

func genRules(t *rapid.T, label string) Rules {
	var rs Rules
	for range rapid.IntRange(0, 4).Draw(t, label) {
		rs = append(rs, genRule(t, label))
	}
	return rs
}

func TestInclusionAgreesWithEnumeration(t *testing.T) {
	u := universe()
	rapid.Check(t, func(t *rapid.T) {
		parent, child := genRules(t, "parent"), genRules(t, "child")
		want := true
		for _, n := range u {
			if child.Allows(n.Object, n.Verb) && !parent.Allows(n.Object, n.Verb) {
				want = false
			}
		}
		if got := parent.Includes(child); got != want {
			t.Fatalf("%v includes %v: %v, enumeration says %v (missing %v)", parent.Strings(), child.Strings(), got, want, parent.Missing(child))
		}
		for _, m := range parent.Missing(child) {
			if !append(slices.Clone(parent), m).Allows(m.Object, m.Verbs[0]) {
				t.Fatalf("granting the missing %v does not do", m)
			}
		}
	})
}

// match is the server's rule for a permission pattern and a literal subject.
func match(pattern, s string) bool {
	p, q := strings.Split(pattern, "."), strings.Split(s, ".")
	if len(p) != len(q) {
		return false
	}
	for i := range p {
		if p[i] != "*" && p[i] != q[i] {
			return false
		}
	}
	return true
}

func TestSubjectsAgreeWithRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := genRules(t, "rules")
		subs := rs.Subjects(id)
		may := func(s string) bool { return slices.ContainsFunc(subs, func(p string) bool { return match(p, s) }) }
		for _, n := range universe() {
			if n.Object.Kind != Service {
				continue
			}
			s := subject.Service{Namespace: n.Object.A, Name: n.Object.B}
			if op, ok := strings.CutPrefix(string(n.Verb), "call:"); ok {
				if got := may(subject.Call(s, op, id)); got != rs.Allows(n.Object, n.Verb) || got != rs.AllowsCall(n.Object, op) {
					t.Fatalf("%v: %v %v: server %v", rs.Strings(), n.Object, n.Verb, got)
				}
			}
			for _, ns := range []string{s.Namespace, subject.None} {
				for _, name := range []string{s.Name, subject.None} {
					for _, o := range subject.Ops() {
						m := subject.System{Stream: o.Stream, Component: o.Component, Op: o.Op, Service: subject.Service{Namespace: ns, Name: name}, ID: id}
						lit := subject.Sys(o.Component, o.Op, m.Service, id)
						if o.Stream {
							lit = subject.Str(o.Component, o.Op, m.Service, id)
						}
						needs, open, _ := Needs(m)
						want := open || slices.ContainsFunc(needs, rs.Satisfies)
						if got := may(lit); got != want {
							t.Fatalf("%v: %s: server %v, gate %v (%v)", rs.Strings(), lit, got, want, needs)
						}
					}
				}
			}
		}
		for _, p := range subs {
			if !strings.HasSuffix(p, "."+id) && p != subject.TrailAck(id) || strings.Contains(p, ">") {
				t.Fatalf("subject %q", p)
			}
			if strings.HasPrefix(p, "$JS.") && !rs.Allows(Object{Kind: Audit}, "read") {
				t.Fatalf("%v: subject %q", rs.Strings(), p)
			}
		}
	})
}

func TestNamespacesAreSeparate(t *testing.T) {
	rs := must(t, "svc:alice/*=*")
	for _, s := range rs.Subjects(id) {
		if tok := strings.Split(s, "."); strings.HasPrefix(s, "svc.") && tok[1] != "alice" {
			t.Errorf("%s", s)
		}
	}
	if rs.Allows(Object{Service, Any, Any}, "list") || !rs.Allows(Object{Service, "alice", Any}, "list") {
		t.Error("list")
	}
}

func TestNoInternalCallIsGranted(t *testing.T) {
	rs := must(t, "svc:*/*=*", "audit=*", "kernel=*", "egress:*:*=*")
	subs := rs.Subjects(id)
	for _, o := range subject.Ops() {
		if o.Scope != subject.Internal {
			continue
		}
		for _, p := range subs {
			if match(p, subject.Sys(o.Component, o.Op, subject.Service{Namespace: "a", Name: "b"}, id)) {
				t.Errorf("%s opens %s.%s", p, o.Component, o.Op)
			}
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("svc:acme/billing=call:charge,status")
	f.Add("egress:a.b:443=connect")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%q: %v, %v", s, r, err)
		}
		if !(Rules{r}).Includes(Rules{again}) {
			t.Fatalf("%q does not include itself", s)
		}
	})
}

func BenchmarkAllowsCall(b *testing.B) {
	rs := must(b, "svc:acme/a=status", "svc:acme/b=call:get", "svc:acme/c=call:get,call:add")
	o := Object{Service, "acme", "c"}
	b.ReportAllocs()
	for b.Loop() {
		if !rs.AllowsCall(o, "add") {
			b.Fatal()
		}
	}
}
