package capmgr_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"
)

// node is a capability as the model has it.
type node struct {
	holder
	parent *node
	rules  []string
	depth  uint32
	dead   bool
	over   bool // it has expired, and is connected no more
}

func (n *node) live() bool { return !n.dead && !n.over }

// universe is every namespace, service and verb that the model's patterns are decided on, with
// one of each kind that no rule names: what is given on it is given by a wildcard.
var universe = []string{"a", "b", "unnamed"}

var verbs = []string{"call:get", "call:add", "call:unnamed", "status", "kill"}

// gives decides by trying a rule on one concrete thing.
func gives(rules []string, ns, name, verb string) bool {
	for _, r := range rules {
		object, vs, _ := strings.Cut(strings.TrimPrefix(r, "svc:"), "=")
		n, s, _ := strings.Cut(object, "/")
		if (n != "*" && n != ns) || (s != "*" && s != name) {
			continue
		}
		for v := range strings.SplitSeq(vs, ",") {
			if v == verb || v == "*" || v == "call:*" && strings.HasPrefix(verb, "call:") {
				return true
			}
		}
	}
	return false
}

// within tells whether everything that child gives parent gives.
func within(parent, child []string) bool {
	for _, ns := range universe {
		for _, name := range universe {
			for _, v := range append([]string{"deploy", "update", "list", "logs", "watch"}, verbs...) {
				if gives(child, ns, name, v) && !gives(parent, ns, name, v) {
					return false
				}
			}
		}
	}
	return true
}

func (n *node) below(up *node) bool {
	for ; n != nil; n = n.parent {
		if n == up {
			return true
		}
	}
	return false
}

// repeats is how often a tree is gone on with: with rapid's 100 cases of 30 steps, more than
// 10,000 steps. rapid.checks makes it hours.
const repeats = 4

// TestModel takes random steps on the real bus, grants, revocations, expiries, questions and
// uses, and compares every answer, and after each step who is live at the fence, and in the end
// who can connect, with a model.
func TestModel(t *testing.T) {
	w, root := start(t)
	places, kinds := []string{"a", "b", "*"}, []string{"call:get", "call:add", "call:*", "status", "kill", "*"}
	rule := rapid.Custom(func(r *rapid.T) string {
		vs := rapid.SliceOfNDistinct(rapid.SampledFrom(kinds), 1, 3, rapid.ID[string]).Draw(r, "verbs")
		return "svc:" + rapid.SampledFrom(places).Draw(r, "ns") + "/" + rapid.SampledFrom(places).Draw(r, "name") + "=" + strings.Join(vs, ",")
	})
	rapid.Check(t, func(r *rapid.T) {
		top := &node{holder: root, rules: []string{"svc:*/*=*"}, depth: 16}
		nodes := []*node{top}
		alive := func() []*node {
			return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return !n.live() })
		}
		grant := func(r *rapid.T) {
			from := rapid.SampledFrom(alive()).Draw(r, "from")
			n := &node{parent: from, rules: rapid.SliceOfN(rule, 1, 3).Draw(r, "rules"), depth: rapid.Uint32Range(0, 4).Draw(r, "depth")}
			key := bustest.NewHandle(t)
			_, err := from.try(t, &solov1.GrantCapabilityRequest{Rules: n.rules, Depth: n.depth, PublicKey: key.ID})
			want := ""
			switch {
			case n.depth >= from.depth:
				want = fault.ReasonGrantDepth
			case !within(from.rules, n.rules):
				want = fault.ReasonGrantTooWide
			}
			if (want == "") != (err == nil) || want != "" && !fault.Is(err, want) {
				r.Fatalf("%v depth %d from %v depth %d: %v, want %q", n.rules, n.depth, from.rules, from.depth, err, want)
			}
			if err == nil {
				n.holder = dial(t, w, key)
				nodes = append(nodes, n)
			}
		}
		revoke := func(r *rapid.T) {
			by, what := rapid.SampledFrom(alive()).Draw(r, "by"), rapid.SampledFrom(nodes).Draw(r, "what")
			if by == what {
				return // its connection goes before its answer comes
			}
			died, cut := uint32(0), uint32(0)
			if what.below(by) {
				for _, n := range nodes {
					if !n.dead && n.below(what) {
						died++
						if !n.over {
							cut++
						}
					}
				}
			}
			resp, err := by.revoke(t, what.ID)
			if !what.below(by) {
				if !fault.Is(err, fault.ReasonNotGranted) {
					r.Fatalf("revoking another's: %v", err)
				}
				return
			}
			if err != nil || resp.GetRevokedCount() != died || resp.GetConnectionsCut() != cut {
				r.Fatalf("%v %v, want %d and %d", resp, err, died, cut)
			}
			for _, n := range nodes {
				n.dead = n.dead || n.below(what)
			}
		}
		expire := func(r *rapid.T) {
			from := rapid.SampledFrom(alive()).Draw(r, "from")
			if from.depth == 0 {
				return
			}
			n, key := &node{parent: from, rules: from.rules}, bustest.NewHandle(t)
			resp, err := from.try(t, &solov1.GrantCapabilityRequest{Rules: n.rules, Ttl: durationpb.New(time.Millisecond), PublicKey: key.ID})
			if err != nil {
				r.Fatal(err)
			}
			<-time.After(time.Until(resp.GetCapability().GetExpiresAt().AsTime()))
			n.ID, n.Seed, n.over = key.ID, key.Seed, true
			nodes = append(nodes, n)
		}
		can := func(r *rapid.T) {
			by, x := rapid.SampledFrom(alive()).Draw(r, "by"), rule.Draw(r, "rule")
			object, vs, _ := strings.Cut(x, "=")
			verb, _, _ := strings.Cut(vs, ",")
			one, resp := object+"="+verb, &solov1.CanResponse{}
			if err := by.call(t, "can", &solov1.CanRequest{Rule: one}, resp); err != nil || resp.GetAllowed() != within(by.rules, []string{one}) {
				r.Fatalf("%s with %v: %v %v", one, by.rules, resp, err)
			}
		}
		use := func(r *rapid.T) {
			n, op := rapid.SampledFrom(nodes).Draw(r, "who"), rapid.SampledFrom([]string{"get", "add", "unnamed"}).Draw(r, "op")
			s := subject.Service{Namespace: rapid.SampledFrom(universe).Draw(r, "ns"), Name: rapid.SampledFrom(universe).Draw(r, "name")}
			want := n.live() && gives(n.rules, s.Namespace, s.Name, "call:"+op)
			if d := w.Fence.Table().Call(n.ID, s, op); (d == gate.Allowed) != want {
				r.Fatalf("%s of %s with %v, live %v: %s", op, s, n.rules, n.live(), d)
			}
		}
		describe := func(r *rapid.T) {
			by, what := rapid.SampledFrom(alive()).Draw(r, "by"), rapid.SampledFrom(nodes).Draw(r, "what")
			resp := &solov1.DescribeCapabilityResponse{}
			err := by.call(t, "describe", &solov1.DescribeCapabilityRequest{Id: what.ID, PageSize: 1000}, resp)
			if !what.below(by) {
				if !fault.Is(err, fault.ReasonCapabilityNotFound) {
					r.Fatalf("describing another's: %v", err)
				}
				return
			}
			children := 0
			for _, n := range nodes {
				if n.parent == what {
					children++
				}
			}
			// The root has children of earlier rounds, too.
			if err != nil || resp.GetCapability().GetId() != what.ID || resp.GetCapability().GetLive() != what.live() || what != top && len(resp.GetChildren()) != children {
				r.Fatalf("%v %v, want %d children", resp, err, children)
			}
		}
		for range repeats {
			r.Repeat(map[string]func(*rapid.T){
				"grant": grant, "revoke": revoke, "expire": expire, "can": can, "use": use, "use again": use, "describe": describe,
				"": func(r *rapid.T) {
					for _, n := range nodes {
						if d := w.Fence.Table().Live(n.ID); (d == gate.Allowed) != n.live() {
							r.Fatalf("%s, live in the model: %v", d, n.live())
						}
					}
				},
			})
		}
		for _, n := range nodes[1:] {
			if nc, err := w.TryDial(t, n.Handle); (err == nil) != n.live() {
				r.Fatalf("connects: %v, live in the model: %v", err, n.live())
			} else if err == nil {
				nc.Close()
			}
			if n.conn != nil {
				n.conn.Close()
			}
		}
		for _, n := range nodes[1:] { // the next round begins with an empty tree
			if n.parent == top && !n.dead {
				if _, err := root.revoke(t, n.ID); err != nil {
					r.Fatal(err)
				}
			}
		}
	})
}
