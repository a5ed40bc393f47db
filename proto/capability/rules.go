package capability

import (
	"fmt"
	"slices"
	"strings"
)

// Rules is what a capability may do.
type Rules []Rule

// ParseRules reads several rules; the error names the first bad one by its index.
func ParseRules(ss []string) (Rules, error) {
	if len(ss) > MaxRules {
		return nil, fmt.Errorf("%d rules: at most %d", len(ss), MaxRules)
	}
	rs := make(Rules, 0, len(ss))
	for i, s := range ss {
		r, err := ParseRule(s)
		if err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// Strings is each rule in the grammar.
func (rs Rules) Strings() []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = r.String()
	}
	return out
}

// Allows tells whether the rules give a verb on an object. Object and verb may be patterns:
// then all they stand for must be given by one rule's pattern, which decides inclusion exactly,
// because names and operations come from unbounded alphabets and no finite union of narrower
// patterns covers a wider one. It does not allocate.
func (rs Rules) Allows(o Object, v Verb) bool {
	for i := range rs {
		if rs[i].Object.Includes(o) && rs[i].gives(v) {
			return true
		}
	}
	return false
}

// AllowsCall is Allows for `call:<op>` without building the verb. It does not allocate.
func (rs Rules) AllowsCall(o Object, op string) bool {
	for i := range rs {
		if !rs[i].Object.Includes(o) {
			continue
		}
		for _, v := range rs[i].Verbs {
			if v == Any || v == "call:*" || (len(v) == 5+len(op) && v[:5] == "call:" && string(v[5:]) == op) {
				return true
			}
		}
	}
	return false
}

func (r *Rule) gives(v Verb) bool {
	for _, have := range r.Verbs {
		if have == Any || have == v || (have == "call:*" && strings.HasPrefix(string(v), "call:")) {
			return true
		}
	}
	return false
}

// Includes tells whether child gives nothing that rs does not give.
func (rs Rules) Includes(child Rules) bool { return len(rs.Missing(child)) == 0 }

// Missing lists the smallest rules, one verb each, that child asks for and rs does not give.
// `*` is taken apart into the verbs of its kind, so a parent that lists them all covers it.
func (rs Rules) Missing(child Rules) Rules {
	var out Rules
	for _, c := range child {
		for _, v := range expand(c) {
			if !rs.Allows(c.Object, v) {
				out = append(out, Rule{c.Object, []Verb{v}})
			}
		}
	}
	return out
}

// expand returns the verbs of a rule with * taken apart.
func expand(r Rule) []Verb {
	if slices.Contains(r.Verbs, Any) {
		return verbs(r.Object.Kind)
	}
	return r.Verbs
}
