package authority

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
)

func (a *Authority) can(_ context.Context, c rpc.Caller, req *solov1.CanRequest) (*solov1.CanResponse, error) {
	r, err := capability.ParseRule(req.GetRule())
	if err != nil {
		return nil, fault.Invalid("rule", "%v", err)
	}
	if len(r.Verbs) != 1 {
		return nil, fault.Invalid("rule", "want one verb, e.g. %s=%s", r.Object, r.Verbs[0])
	}
	v, ok := a.o.Gate.Get(c.ID)
	if err := live(v, ok); err != nil {
		return nil, err
	}
	want := capability.Rules{r}
	if v.Rules.Includes(want) {
		if d := a.short(c.ID, r); d != nil {
			return &solov1.CanResponse{Denial: d}, nil
		}
		return &solov1.CanResponse{Allowed: true}, nil
	}
	return &solov1.CanResponse{Denial: a.denial(c.ID, r.Object.String(), string(r.Verbs[0]), r.String(), func(have capability.Rules) bool { return have.Includes(want) })}, nil
}

// denial says what a live holder lacks and who could grant it.
func (a *Authority) denial(holder, object, verb, smallest string, enough func(capability.Rules) bool) *solov1.Denial {
	d := &solov1.Denial{
		Object: object, Verb: verb, Reason: gate.NotGranted.String(), SmallestGrant: smallest,
		Grantors: grantors(a.o.Gate, holder, enough),
	}
	who := "nobody on its chain could grant it"
	if len(d.Grantors) > 0 {
		who = named(a.o.Gate, d.Grantors[0]) + " could grant it"
	}
	d.Message = fmt.Sprintf("capability %s does not give %s on %s; %s", holder, verb, object, who)
	return d
}

// grantors lists the holders above an id that have enough and may grant, nearest first.
func grantors(t *gate.Table, id string, enough func(capability.Rules) bool) (out []string) {
	for _, up := range t.Chain(id) {
		v, ok := t.Get(up)
		if ok && v.State == gate.Allowed && v.Record.GetKind() == kernelv1.CapKind_CAP_KIND_HOLDER && v.Record.GetDepth() > 0 && enough(v.Rules) {
			out = append(out, up)
		}
	}
	return out
}

func named(t *gate.Table, id string) string {
	if v, ok := t.Get(id); ok && v.Record.GetLabel() != "" {
		return fmt.Sprintf("%s (%s)", id, v.Record.GetLabel())
	}
	return id
}

// tooWide is the fault of a grant that a holder cannot make; field is what asked for it.
func tooWide(t *gate.Table, field, holder string, missing capability.Rules) error {
	rules := missing.Strings()
	f := fault.New(codes.PermissionDenied, fault.ReasonGrantTooWide, "").With("holder", holder).With("missing", strings.Join(rules, " "))
	const shown = 5
	var parts []string
	for i, r := range rules {
		who := grantors(t, holder, func(have capability.Rules) bool { return have.Includes(missing[i : i+1]) })
		text := r + " (nobody on its chain holds it)"
		if len(who) > 0 {
			text = r + " (" + named(t, who[0]) + " could grant it)"
		}
		if i < shown {
			parts = append(parts, text)
		}
		f.AddField(field, "%s", text)
	}
	if len(rules) > shown {
		parts = append(parts, fmt.Sprintf("and %d more", len(rules)-shown))
	}
	if all := grantors(t, holder, func(have capability.Rules) bool { return have.Includes(missing) }); len(all) > 0 {
		f.With("grantors", strings.Join(all, " "))
	}
	f.Message = fmt.Sprintf("%s: capability %s does not hold %s", field, holder, strings.Join(parts, ", "))
	return f.Next("grant less, or ask a holder above for what is missing")
}

// explain turns a subject that the server refused into a denial, and records it.
func (a *Authority) explain(_ context.Context, c rpc.Caller, req *kernelv1.ExplainRequest) (*kernelv1.ExplainResponse, error) {
	needs, op, id, err := needsOf(req.GetSubject())
	if err != nil {
		return nil, err
	}
	v, ok := a.o.Gate.Get(c.ID)
	if err := live(v, ok); err != nil {
		return nil, err
	}
	object := needs[0].Object.String()
	if needs[0].Object.A == "" && needs[0].Object.Kind == capability.Service {
		object = "svc:<namespace>/<service>"
	}
	var d *solov1.Denial
	switch {
	case id != c.ID:
		d = &solov1.Denial{
			Object: object, Verb: string(needs[0].Verb), Reason: gate.NotGranted.String(),
			Message: fmt.Sprintf("the last token of a subject must be the caller's own id, %s", c.ID),
		}
	case slices.ContainsFunc(needs, v.Rules.Satisfies):
		d = &solov1.Denial{
			Object: object, Verb: string(needs[0].Verb), Reason: gate.Unknown.String(), Retryable: true,
			Message: fmt.Sprintf("capability %s gives %s on %s; try again", c.ID, needs[0].Verb, object),
		}
	default:
		d = a.denial(c.ID, object, string(needs[0].Verb), smallest(needs[0]), func(have capability.Rules) bool { return slices.ContainsFunc(needs, have.Satisfies) })
	}
	a.metrics.denials.WithLabelValues(d.Reason).Inc()
	a.o.Audit.Count(c.ID, op, d.Object, d.Reason)
	return &kernelv1.ExplainResponse{Denial: d}, nil
}

// needsOf reads what a subject takes, any one of at least one need, and whose id it ends in.
func needsOf(s string) (needs []capability.Need, op, id string, err error) {
	if m, err := subject.ParseCall(s); err == nil {
		return []capability.Need{{Object: capability.ServiceObject(m.Service), Verb: capability.CallVerb(m.Op)}}, "call." + m.Op, m.ID, nil
	}
	m, err := subject.ParseSystem(s)
	if err != nil {
		return nil, "", "", fault.New(codes.InvalidArgument, fault.ReasonInvalidSubject, "a holder may publish svc.<ns>.<service>.<op>.<id>, sys.<component>.<op>.<ns>.<service>.<id> and str.…, and listen below _INBOX.<id>; %v", err)
	}
	needs, open, _ := capability.Needs(m)
	if open {
		return nil, "", "", fault.New(codes.FailedPrecondition, fault.ReasonInvalidSubject, "every live handle may use %s.%s; try again", m.Component, m.Op).Retry(0)
	}
	if len(needs) == 0 {
		return nil, "", "", fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "there is no system call %s.%s on %s for holders", m.Component, m.Op, m.Service)
	}
	return needs, m.Component + "." + m.Op, m.ID, nil
}

// smallest is the smallest rule that meets a need, as far as the subject tells; empty where
// any service would do.
func smallest(n capability.Need) string {
	switch {
	case n.Object.Kind == capability.Service && n.Object.A == "":
		return ""
	case n.Verb == "call": // any operation
		return n.Object.String() + "=call:*"
	}
	return n.Object.String() + "=" + string(n.Verb)
}
