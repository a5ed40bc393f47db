package fence_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/subject"
	"pgregory.net/rapid"
)

// allowed publishes every subject on a connection of its own and tells which the server lets through.
func allowed(t *testing.T, w *bustest.World, h bustest.Handle, subjects []string) map[string]bool {
	t.Helper()
	c, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT {\"nkey\":%q,\"sig\":%q,\"protocol\":1,\"verbose\":false}\r\n", h.ID, signing(t, h.Seed)([]byte(info.Nonce)))
	for _, s := range subjects {
		fmt.Fprintf(&b, "PUB %s 0\r\n\r\n", s)
	}
	b.WriteString("PING\r\n")
	if _, err := io.WriteString(c, b.String()); err != nil {
		t.Fatal(err)
	}
	ok := map[string]bool{}
	for _, s := range subjects {
		ok[s] = true
	}
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			t.Fatal(err)
		case line == "PONG\r\n":
			return ok
		case !strings.HasPrefix(line, "-ERR"):
			continue // what the server tells of itself
		}
		_, s, _ := strings.Cut(line, `Permissions Violation for Publish to "`)
		s, _, _ = strings.Cut(s, `"`)
		if _, tried := ok[s]; !tried {
			t.Fatalf("the server says %q", line)
		}
		ok[s] = false
	}
}

// drawRules draws a few rules over a small alphabet, and narrower ones that lie within them, or nearly.
func drawRules(t *rapid.T, within capability.Rules) capability.Rules {
	of := func(vs ...string) string { return rapid.SampledFrom(vs).Draw(t, "part") }
	var ss []string
	for range rapid.IntRange(1, 4).Draw(t, "rules") {
		var verbs []string
		object := of("svc", "svc", "svc", "svc", "audit", "kernel")
		switch object {
		case "svc":
			object = "svc:" + of("a", "b", "*") + "/" + of("x", "y", "*")
			verbs = []string{"call:p", "call:q", "call:*", "deploy", "update", "kill", "status", "list", "logs", "watch", "*"}
		case "audit":
			verbs = []string{"read", "*"}
		case "kernel":
			verbs = []string{"shutdown", "nodes", "usage", "*"}
		}
		if len(within) > 0 && rapid.Bool().Draw(t, "narrower") {
			r := rapid.SampledFrom(within).Draw(t, "of")
			ss = append(ss, strings.Replace(capability.Rule{Object: r.Object, Verbs: r.Verbs[:1]}.String(), "*", of("*", "a", "x"), 1))
			if _, err := capability.ParseRule(ss[len(ss)-1]); err == nil {
				continue
			}
			ss = ss[:len(ss)-1] // the narrowed part was no name
		}
		n := rapid.IntRange(1, 3).Draw(t, "verbs")
		ss = append(ss, object+"="+strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(verbs), 1, min(n, len(verbs)), rapid.ID).Draw(t, "verb"), ","))
	}
	rs, err := capability.ParseRules(ss)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// asked is a subject that somebody may try, and what its parts ask for.
type asked struct {
	stem string // without the id
	call bool
	s    subject.Service
	op   string
	sys  subject.System
}

// drawSubject draws a call or a system call, with names that stand in rules and others.
func drawSubject(t *rapid.T) asked {
	name := func(vs ...string) string { return rapid.SampledFrom(vs).Draw(t, "name") }
	a := asked{s: subject.Service{Namespace: name("a", "b", "zz"), Name: name("x", "y", "zz")}, call: rapid.Bool().Draw(t, "call")}
	if a.call {
		a.op = name("p", "q", "zz")
		a.stem = strings.TrimSuffix(subject.Call(a.s, a.op, "ID"), "ID")
		return a
	}
	switch rapid.IntRange(0, 2).Draw(t, "object") {
	case 0:
		a.s = subject.Nothing()
	case 1:
		a.s.Name = subject.None
	}
	o := rapid.SampledFrom(subject.Ops()).Draw(t, "op")
	a.sys = subject.System{Component: o.Component, Op: o.Op, Service: a.s, Stream: o.Stream}
	build := subject.Sys
	if o.Stream {
		build = subject.Str
		if rapid.Bool().Draw(t, "credit") {
			a.sys.Op = subject.StreamCredit
		}
	}
	a.stem = strings.TrimSuffix(build(o.Component, a.sys.Op, a.s, "ID"), "ID")
	return a
}

// given tells whether rules give what a subject asks for.
func (a asked) given(rs capability.Rules) bool {
	if a.call {
		return rs.AllowsCall(capability.ServiceObject(a.s), a.op)
	}
	needs, open, ok := capability.Needs(a.sys)
	return open || ok && slices.ContainsFunc(needs, rs.Satisfies)
}

// What the live server lets a holder publish is what its rules give, no more and no less, under its own id
// alone; and a capability that includes another may publish all that the other may.
func TestTheServerAllowsWhatRulesGive(t *testing.T) {
	w := bustest.Start(t)
	stranger := bustest.NewHandle(t).ID
	yes, no, included := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		parent := drawRules(rt, nil)
		child := drawRules(rt, parent)
		p, c := w.Grant(t, parent.Strings()...), w.Grant(t, child.Strings()...)
		tried := rapid.SliceOfN(rapid.Custom(drawSubject), 20, 50).Draw(rt, "subjects")
		forms := func(own, other string) (out []string) {
			for _, a := range tried {
				out = append(out, a.stem+own, a.stem+other, a.stem+stranger)
			}
			return out
		}
		atParent, atChild := allowed(t, w, p, forms(p.ID, c.ID)), allowed(t, w, c, forms(c.ID, p.ID))
		within := parent.Includes(child)
		if within {
			included++
		}
		for _, a := range tried {
			for _, x := range []struct {
				rs    capability.Rules
				ok    map[string]bool
				own   string
				other string
			}{{parent, atParent, p.ID, c.ID}, {child, atChild, c.ID, p.ID}} {
				got, want := x.ok[a.stem+x.own], a.given(x.rs)
				if got != want {
					rt.Fatalf("%v: the server lets %s pass: %t, the rules: %t", x.rs.Strings(), a.stem, got, want)
				}
				if x.ok[a.stem+x.other] || x.ok[a.stem+stranger] {
					rt.Fatalf("%v: the server lets %s pass under another's id", x.rs.Strings(), a.stem)
				}
				if got {
					yes++
				} else {
					no++
				}
			}
			if within && atChild[a.stem+c.ID] && !atParent[a.stem+p.ID] {
				rt.Fatalf("%v include %v, which may publish %s, and may not themselves", parent.Strings(), child.Strings(), a.stem)
			}
		}
	})
	t.Logf("%d subjects let through, %d refused, %d times one included the other", yes, no, included)
	if yes == 0 || no == 0 || included == 0 {
		t.Error("one side was never tried")
	}
}
