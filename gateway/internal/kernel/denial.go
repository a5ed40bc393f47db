package kernel

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
)

// explainTimeout bounds the question for a denial: the refusal stands without it.
const explainTimeout = 2 * time.Second

// denial is the fault for a subject that the holder may not use. capmgr, asked as the holder,
// says what is missing and records the denial.
func (s *Server) denial(ctx context.Context, c *holder.Conn, subj string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	resp := &kernelv1.ExplainResponse{}
	err := peerCall(ctx, c, subject.Capmgr, "explain", subject.Nothing(), &kernelv1.ExplainRequest{Subject: subj}, resp)
	d := resp.GetDenial()
	switch {
	case errors.Is(err, holder.ErrLost):
		return lost(ctx)
	case fault.Is(err, fault.ReasonHandleRefused):
		return Refused()
	case err != nil || d == nil:
		s.log.Warn("a denial could not be explained", "subject", subj, "error", err)
		d = missing(subj)
	}
	if r := d.GetReason(); r == "REVOKED" || r == "EXPIRED" || r == "UNKNOWN" {
		return Refused()
	}
	return Denied(d, c.Peer.ID)
}

// Denied is the fault for a denial.
func Denied(d *solov1.Denial, id string) error {
	f := fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "%s", d.GetMessage()).
		With("object", d.GetObject()).With("verb", d.GetVerb()).With("holder", id).
		With("decision", d.GetReason()).With("smallest_grant", d.GetSmallestGrant())
	if g := d.GetGrantors(); len(g) > 0 {
		f.With("grantors", strings.Join(g, ","))
	}
	if d.GetSmallestGrant() != "" {
		f.Next("ask one who holds it for: solo grant --rule '%s' --public-key %s", d.GetSmallestGrant(), newKey)
	}
	if d.GetRetryable() {
		f.Retry(time.Second)
	}
	return f
}

// newKey stands in the advice where the asker's fresh public key goes: an id is given once.
const newKey = "U..."

// missing says what can be said about a refused subject without capmgr.
func missing(subj string) *solov1.Denial {
	d := &solov1.Denial{Reason: "NOT_GRANTED", Message: "the capability does not allow " + subj}
	need := capability.Need{}
	if m, err := subject.ParseCall(subj); err == nil {
		need = capability.Need{Object: capability.ServiceObject(m.Service), Verb: capability.CallVerb(m.Op)}
	} else if m, err := subject.ParseSystem(subj); err == nil {
		if needs, _, ok := capability.Needs(m); ok && len(needs) > 0 {
			need = needs[0]
		}
	}
	if need.Object.Kind == 0 || need.Object.Kind == capability.Service && need.Object.A == "" {
		return d
	}
	d.Object, d.Verb = need.Object.String(), string(need.Verb)
	d.SmallestGrant = capability.Rule{Object: need.Object, Verbs: []capability.Verb{need.Verb}}.String()
	d.Message = "the capability does not allow " + d.GetSmallestGrant()
	return d
}
