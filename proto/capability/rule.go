// Package capability is the pure core of Solo's security: the grammar of rules, whether one
// set of rules is within another, whether a set allows an object and verb, and which bus
// subjects a set compiles to. It knows no clock, no network and no storage.
//
//	object  svc:(name|*)/(name|*)  |  audit  |  kernel  |  egress:(host|*):(port|*)
//	rule    object=verb{,verb}
//	verb    svc: call:(op|*) deploy update kill status list logs watch
//	        audit: read    kernel: shutdown nodes usage    egress: connect    any: *
package capability

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/solo-os/solo/proto/subject"
)

// Kind is a kind of object.
type Kind uint8

// The kinds of objects.
const (
	Service Kind = iota + 1
	Audit
	Kernel
	Egress
)

// Any matches every token in its place.
const Any = "*"

// MaxRules bounds the rules of one capability.
const MaxRules = 64

// Object is a pattern of objects, or one object when neither part is Any.
type Object struct {
	Kind Kind
	// Namespace and service, or host and port; empty for Audit and Kernel.
	A, B string
}

// ServiceObject is the object `svc:<ns>/<service>`; subject.None becomes Any: asking about all
// of them needs a right to all of them.
func ServiceObject(s subject.Service) Object {
	o := Object{Service, s.Namespace, s.Name}
	if o.A == subject.None {
		o.A = Any
	}
	if o.B == subject.None {
		o.B = Any
	}
	return o
}

// String is the object in the grammar.
func (o Object) String() string {
	switch o.Kind {
	case Service:
		return "svc:" + o.A + "/" + o.B
	case Audit:
		return "audit"
	case Kernel:
		return "kernel"
	case Egress:
		return "egress:" + o.A + ":" + o.B
	}
	return "?"
}

// Includes tells whether every object of p is one of o. A token of an object is a name from an
// unbounded alphabet, so a pattern is included exactly when each token is equal or o has Any.
func (o Object) Includes(p Object) bool {
	return o.Kind == p.Kind && (o.A == Any || o.A == p.A) && (o.B == Any || o.B == p.B)
}

// Verb is one verb of the grammar, `call:<op>` included.
type Verb string

// Rule is one object pattern and verbs.
type Rule struct {
	Object Object
	// In the order written, without repeats.
	Verbs []Verb
}

// String is the rule in the grammar.
func (r Rule) String() string {
	vs := make([]string, len(r.Verbs))
	for i, v := range r.Verbs {
		vs[i] = string(v)
	}
	return r.Object.String() + "=" + strings.Join(vs, ",")
}

// verbs lists what `*` stands for, by kind.
func verbs(k Kind) []Verb {
	switch k {
	case Service:
		return []Verb{"call:*", "deploy", "update", "kill", "status", "list", "logs", "watch"}
	case Audit:
		return []Verb{"read"}
	case Kernel:
		return []Verb{"shutdown", "nodes", "usage"}
	case Egress:
		return []Verb{"connect"}
	}
	return nil
}

// ParseRule reads one rule. The error says what is wrong and what would be right.
func ParseRule(s string) (Rule, error) {
	if len(s) > 512 {
		return Rule{}, fmt.Errorf("rule of %d characters: at most 512", len(s))
	}
	obj, vs, ok := strings.Cut(s, "=")
	if !ok || vs == "" {
		return Rule{}, fmt.Errorf("rule %q has no verbs: want object=verb{,verb}, e.g. svc:acme/billing=call:charge,status", s)
	}
	o, err := ParseObject(obj)
	if err != nil {
		return Rule{}, err
	}
	r := Rule{Object: o}
	for v := range strings.SplitSeq(vs, ",") {
		if err := checkVerb(o.Kind, v); err != nil {
			return Rule{}, fmt.Errorf("rule %q: %w", s, err)
		}
		if !slices.Contains(r.Verbs, Verb(v)) {
			r.Verbs = append(r.Verbs, Verb(v))
		}
	}
	return r, nil
}

// ParseObject reads the object part of a rule.
func ParseObject(s string) (Object, error) {
	switch {
	case s == "audit":
		return Object{Kind: Audit}, nil
	case s == "kernel":
		return Object{Kind: Kernel}, nil
	case strings.HasPrefix(s, "svc:"):
		ns, name, ok := strings.Cut(s[len("svc:"):], "/")
		if ok && nameOrAny(ns) && nameOrAny(name) {
			return Object{Service, ns, name}, nil
		}
		return Object{}, fmt.Errorf("object %q: want svc:namespace/service, each a name (a-z, 0-9, inner dashes, a letter first, at most 40) or *", s)
	case strings.HasPrefix(s, "egress:"):
		rest := s[len("egress:"):]
		if i := strings.LastIndexByte(rest, ':'); i >= 0 && hostOrAny(rest[:i]) && portOrAny(rest[i+1:]) {
			return Object{Egress, rest[:i], rest[i+1:]}, nil
		}
		return Object{}, fmt.Errorf("object %q: want egress:host:port, host in lower case or *, port 1-65535 or *", s)
	}
	return Object{}, fmt.Errorf("object %q: want svc:namespace/service, audit, kernel or egress:host:port", s)
}

func checkVerb(k Kind, v string) error {
	if v == Any || slices.Contains(verbs(k), Verb(v)) {
		return nil
	}
	if op, ok := strings.CutPrefix(v, "call:"); ok && k == Service && subject.ValidOp(op) {
		return nil
	}
	vs := make([]string, 0, 9)
	for _, w := range verbs(k) {
		vs = append(vs, strings.Replace(string(w), "call:*", "call:<op>", 1))
	}
	return fmt.Errorf("verb %q: want %s or *", v, strings.Join(vs, ", "))
}

func nameOrAny(s string) bool { return s == Any || subject.ValidName(s) }

func hostOrAny(s string) bool {
	if s == Any {
		return true
	}
	if s == "" || len(s) > 253 || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func portOrAny(s string) bool {
	if s == Any {
		return true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// CallVerb is `call:<op>`.
func CallVerb(op string) Verb { return Verb("call:" + op) }
