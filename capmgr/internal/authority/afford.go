package authority

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/capmgr/internal/budget"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc/codes"
)

// affordable refuses a budget that the pools above it do not have left.
func affordable(b budget.Tree, parent string, want *solov1.Budget) error {
	f := fault.New(codes.PermissionDenied, fault.ReasonGrantBudget, "").With("holder", parent)
	for _, d := range budget.Dimensions() {
		asked := d.Of(want)
		if asked == 0 {
			continue
		}
		if p := b.From(parent, d, ""); p.Bounded() && asked > p.Left() {
			f.AddField("budget."+d.Field(), "at most %d: capability %s has %d, and %d of it is taken", p.Left(), p.ID, p.Size, p.Used)
		}
	}
	if lifetime, asked := b.Lifetime(parent), want.GetLifetime().AsDuration(); lifetime > 0 && asked > lifetime {
		f.AddField("budget.lifetime", "at most %s, as the granting capability has it", lifetime)
	}
	if len(f.Fields) == 0 {
		return nil
	}
	f.Message = f.Fields[0].Path + ": " + f.Fields[0].Description
	return f.Next("grant less, revoke what is not needed any more, or ask a holder further up")
}

// chargeable refuses a service for which a holder's budgets have no room. What the service takes
// already is given back first.
func chargeable(b budget.Tree, c budget.Charge) error {
	for _, x := range []struct {
		d     budget.Dimension
		asked uint64
	}{{budget.Services, 1}, {budget.Memory, c.MemoryBytes}} {
		if p := b.From(c.Holder, x.d, c.Service); p.Bounded() && x.asked > p.Left() {
			return exhausted(b, c.Holder, p, x.d, x.asked)
		}
	}
	return nil
}

// exhausted is the fault of a pool without room. Trying again helps once something was given back,
// which no clock tells.
func exhausted(b budget.Tree, holder string, p budget.Pool, d budget.Dimension, asked uint64) error {
	f := fault.New(codes.ResourceExhausted, fault.ReasonBudget, "%s", shortage(p, d, asked)).Final().
		With("holder", holder).With("object", p.ID).With("budget", d.Field()).
		With("size", decimal(p.Size)).With("used", decimal(p.Used)).With("asked", decimal(asked)).
		With("smallest_grant", "budget."+d.Field()+"="+decimal(asked))
	who := "a holder further up"
	if list := backers(b, p.ID, d, asked); len(list) > 0 {
		f.With("grantors", strings.Join(list, " "))
		who = list[0]
	}
	return f.Next("kill what is not needed any more, or ask %s for a larger budget", who)
}

// short says which budget keeps a holder from deploying anything at all, or nil.
func (a *Authority) short(holder string, r capability.Rule) *solov1.Denial {
	if r.Object.Kind != capability.Service || r.Verbs[0] != "deploy" {
		return nil
	}
	b := a.o.Ledger.State().Budgets()
	for _, d := range []budget.Dimension{budget.Services, budget.Memory} {
		p := b.From(holder, d, "")
		if !p.Bounded() || p.Left() > 0 {
			continue
		}
		return &solov1.Denial{
			Object: r.Object.String(), Verb: string(r.Verbs[0]), Reason: "BUDGET", Message: shortage(p, d, 1),
			Grantors: backers(b, p.ID, d, 1), SmallestGrant: "budget." + d.Field() + "=1",
		}
	}
	return nil
}

func shortage(p budget.Pool, d budget.Dimension, asked uint64) string {
	return fmt.Sprintf("budget.%s: %d asked, %d left of the %d that capability %s has", d.Field(), asked, p.Left(), p.Size, p.ID)
}

// backers lists the live holders above a pool that could grant as much, nearest first.
func backers(b budget.Tree, pool string, d budget.Dimension, asked uint64) (out []string) {
	for _, up := range b.Table.Chain(pool) {
		v, ok := b.Table.Get(up)
		if !ok || v.State != gate.Allowed || v.Record.GetKind() != kernelv1.CapKind_CAP_KIND_HOLDER || v.Record.GetDepth() == 0 {
			continue
		}
		if p := b.From(up, d, ""); !p.Bounded() || asked <= p.Left() {
			out = append(out, up)
		}
	}
	return out
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
