package authority

import (
	"context"
	"strconv"
	"strings"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const defaultPage = 100

// describe shows a capability of the caller's subtree. Of those above the caller it shows
// who they are, not what they may.
func (a *Authority) describe(_ context.Context, c rpc.Caller, req *solov1.DescribeCapabilityRequest) (*solov1.DescribeCapabilityResponse, error) {
	id := req.GetId()
	if id == "" {
		id = c.ID
	}
	t := a.o.Gate
	v, ok := t.Get(id)
	if !ok || !t.Descends(id, c.ID) {
		return nil, a.refuse(c.ID, "describe", id, notFound(id))
	}
	from := 0
	if s := req.GetPageToken(); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, fault.Invalid("page_token", "want next_page_token of an earlier answer")
		}
		from = n
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	out := &solov1.DescribeCapabilityResponse{Capability: a.message(v)}
	for _, up := range t.Chain(id) {
		w, _ := t.Get(up)
		if t.Descends(up, c.ID) {
			out.Ancestors = append(out.Ancestors, a.message(w))
		} else {
			out.Ancestors = append(out.Ancestors, &solov1.Capability{Id: up, Label: w.Record.GetLabel(), Live: w.State == gate.Allowed})
		}
	}
	for _, w := range t.Children(id, from, size) {
		out.Children = append(out.Children, a.message(w))
	}
	if next := from + len(out.Children); len(out.Children) > 0 && next < v.Children {
		out.NextPageToken = strconv.Itoa(next)
	}
	return out, nil
}

// message is a capability as holders see it.
func (a *Authority) message(v gate.View) *solov1.Capability {
	r := v.Record
	m := &solov1.Capability{
		Id: r.GetId(), Parent: r.GetParent(), Label: r.GetLabel(), Rules: v.Rules.Strings(), Depth: r.GetDepth(), Budget: r.GetBudget(),
		Live: v.State == gate.Allowed, GrantedAt: r.GetGrantedAt(), Kind: kind(r.GetKind()),
		Used: a.o.Ledger.State().Budgets().Used(v),
	}
	if !v.Expires.IsZero() {
		m.ExpiresAt = timestamppb.New(v.Expires)
	}
	if !v.RevokedAt.IsZero() {
		m.RevokedAt = timestamppb.New(v.RevokedAt)
	}
	return m
}

func kind(k kernelv1.CapKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "CAP_KIND_"))
}
