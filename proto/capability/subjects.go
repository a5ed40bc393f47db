package capability

import (
	"fmt"
	"slices"
	"strings"

	"github.com/solo-os/solo/proto/subject"
)

// MaxSubjects bounds what the rules of one capability compile to: each connection of its holder costs the
// server that many entries. 64 rules with every verb are below it.
const MaxSubjects = 1024

// CheckSize is an error where rules compile to more than MaxSubjects subjects.
func (rs Rules) CheckSize() error {
	if n := len(rs.Subjects("")); n > MaxSubjects {
		return fmt.Errorf("they come to %d subjects on the bus, at most %d: name fewer operations, or use call:*", n, MaxSubjects)
	}
	return nil
}

// Subjects compiles rules to the exact subjects that a holder with the id may publish: what
// the server itself enforces. They contain `*` where a rule does, and where the server numbers
// deliveries of the audit trail, never `>`.
func (rs Rules) Subjects(id string) []string {
	set := map[string]bool{}
	for _, r := range rs {
		for _, v := range expand(r) {
			if r.Object.Kind == Service {
				if op, ok := strings.CutPrefix(string(v), "call:"); ok {
					set["svc."+r.Object.A+"."+r.Object.B+"."+op+"."+id] = true
				}
			}
			for _, o := range subject.Ops() {
				if s, ok := grants(r.Object, v, o); ok {
					add(set, o, s, id)
				}
			}
		}
	}
	for _, o := range subject.Ops() {
		if o.Scope == subject.Open {
			add(set, o, subject.Nothing(), id)
		}
	}
	if rs.Allows(Object{Kind: Audit}, "read") {
		for _, s := range []string{subject.TrailNext(id), subject.TrailInfo(id), subject.TrailAck(id)} {
			set[s] = true
		}
	}
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// grants tells whether verb v on object ob opens system call o, and on which subject tokens.
func grants(ob Object, v Verb, o subject.Op) (subject.Service, bool) {
	verb := o.Verb
	if strings.HasPrefix(string(v), "call:") {
		v = "call"
	}
	if string(v) != verb {
		return subject.Service{}, false
	}
	switch {
	case o.Scope == subject.OnService && ob.Kind == Service:
		return subject.Service{Namespace: ob.A, Name: ob.B}, true
	case o.Scope == subject.Anywhere && ob.Kind == Service,
		o.Scope == subject.OnKernel && ob.Kind == Kernel,
		o.Scope == subject.OnAudit && ob.Kind == Audit:
		return subject.Nothing(), true
	}
	return subject.Service{}, false
}

func add(set map[string]bool, o subject.Op, s subject.Service, id string) {
	if !o.Stream {
		set[subject.Sys(o.Component, o.Op, s, id)] = true
		return
	}
	set[subject.Str(o.Component, o.Op, s, id)] = true
	set[subject.Str(o.Component, subject.StreamCredit, s, id)] = true
}

// Need is what a system call needs: an object and a verb.
type Need struct {
	Object Object
	Verb   Verb
}

// Needs lists what a holder must have for a parsed system call; any one of them is enough.
// open is true when every live holder may ask; ok is false when there is no such call for
// holders. For calls that need the verb anywhere, Object has Kind Service and empty tokens:
// Satisfies then looks at every rule.
func Needs(m subject.System) (needs []Need, open, ok bool) { return AppendNeeds(nil, m) }

// AppendNeeds is Needs into a list of the caller's, which saves the gates an allocation.
func AppendNeeds(needs []Need, m subject.System) (_ []Need, open, ok bool) {
	for o := range subject.OpsOf(m.Component) {
		credit := m.Stream && o.Stream && m.Op == subject.StreamCredit
		if o.Stream != m.Stream || (o.Op != m.Op && !credit) {
			continue
		}
		none := m.Service == subject.Nothing()
		switch o.Scope {
		case subject.Open:
			if none {
				return nil, true, true
			}
		case subject.OnService:
			needs = append(needs, Need{ServiceObject(m.Service), Verb(o.Verb)})
		case subject.OnKernel:
			if none {
				needs = append(needs, Need{Object{Kind: Kernel}, Verb(o.Verb)})
			}
		case subject.OnAudit:
			if none {
				needs = append(needs, Need{Object{Kind: Audit}, Verb(o.Verb)})
			}
		case subject.Anywhere:
			if none {
				needs = append(needs, Need{Object{Kind: Service}, Verb(o.Verb)})
			}
		}
	}
	return needs, false, len(needs) > 0
}

// Satisfies tells whether the rules meet one need.
func (rs Rules) Satisfies(n Need) bool {
	if n.Verb == "call" || (n.Object.Kind == Service && n.Object.A == "") {
		for _, r := range rs {
			if r.Object.Kind != Service || (n.Object.A != "" && !r.Object.Includes(n.Object)) {
				continue
			}
			for _, v := range r.Verbs {
				if v == Any || v == n.Verb || (n.Verb == "call" && strings.HasPrefix(string(v), "call:")) {
					return true
				}
			}
		}
		return false
	}
	return rs.Allows(n.Object, n.Verb)
}
