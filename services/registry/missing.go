package registry

import (
	"fmt"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
)

const (
	// nearest bounds how many letters a suggestion may differ in.
	nearest = 3
	// considered bounds the names looked at for a suggestion.
	considered = 1000
)

func unknown(svc subject.Service) *fault.Error {
	return fault.New(codes.NotFound, fault.ReasonServiceNotFound, "there is no service %s", svc).With("object", "svc:"+svc.String())
}

func unreadable(cause error) error {
	return fault.New(codes.DataLoss, fault.ReasonDataLoss, "%v", cause).Next("kill it with purge and deploy it again")
}

// notFound is the fault for a service that is not there. It suggests the nearest name of the
// same namespace, among those that the caller could ask the same question about: nobody
// learns of a service that way.
func (r *Registry) notFound(c rpc.Caller, svc subject.Service) error {
	f := unknown(svc)
	best, at := subject.Service{}, nearest+1
	for _, e := range r.store.After(svc.Namespace+"/", considered, func(e entry) bool { return e.Service.Namespace == svc.Namespace }) {
		d := distance(svc.Name, e.Service.Name, at)
		if d < at && r.o.Table.Rule(c.ID, capability.ServiceObject(e.Service), capability.Verb(c.Op)) == gate.Allowed {
			best, at = e.Service, d
		}
	}
	if at <= nearest && at < len(svc.Name) {
		return f.Next("did you mean %s?", best).With("suggestion", best.String())
	}
	return f.Next("solo ps lists the services there are")
}

// distance is the edit distance of two names, or bound when it is not less.
func distance(a, b string, bound int) int {
	if len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal, least := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], d
			least = min(least, d)
		}
		if least >= bound {
			return bound
		}
	}
	return min(row[len(b)], bound)
}

func storeUnavailable(what string, cause error) error {
	return fault.Unavailable(time.Second, "%s cannot be read now", what).Because(fmt.Errorf("%s: %w", what, cause))
}
