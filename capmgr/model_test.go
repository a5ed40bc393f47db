package capmgr_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"pgregory.net/rapid"
)

// node is a capability as the model has it.
type node struct {
	holder
	parent *node
	rules  []string
	depth  uint32
	dead   bool
}

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

// TestModel makes random grants and revocations on the real bus and compares every answer,
// and afterwards who is live at the fence and who can connect, with a model.
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
			return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n.dead })
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
			died := uint32(0)
			if what.below(by) {
				for _, n := range nodes {
					if !n.dead && n.below(what) {
						died++
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
			if err != nil || resp.GetRevokedCount() != died || resp.GetConnectionsCut() != died {
				r.Fatalf("%v %v, want %d", resp, err, died)
			}
			for _, n := range nodes {
				n.dead = n.dead || n.below(what)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"grant": grant, "grant again": grant, "revoke": revoke,
			"": func(r *rapid.T) {
				for _, n := range nodes {
					if d := w.Fence.Table().Live(n.ID); (d == gate.Allowed) == n.dead {
						r.Fatalf("%s, dead in the model: %v", d, n.dead)
					}
				}
			},
		})
		for _, n := range nodes[1:] {
			if nc, err := w.TryDial(t, n.Handle); (err == nil) == n.dead {
				r.Fatalf("connects: %v, dead in the model: %v", err, n.dead)
			} else if err == nil {
				nc.Close()
			}
			n.conn.Close()
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
