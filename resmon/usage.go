package resmon

import (
	"context"
	"time"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// maxUsageBytes bounds one answer, well below what the bus carries.
const maxUsageBytes = 1 << 20

// usage sums what services used. Whoever may ask about the whole kernel asks on the subject
// without an object, and then about any service.
func (r *Resmon) usage(_ context.Context, c rpc.Caller, req *solov1.UsageRequest) (*solov1.UsageResponse, error) {
	if req.GetCapabilityId() != "" {
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "capability_id: usage by capability is not measured; ask by service").
			AddField("capability_id", "leave it empty")
	}
	of, err := c.About("service", req.GetService())
	if err != nil {
		return nil, err
	}
	from, to := time.Time{}, time.Now()
	if t := req.GetFrom(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, fault.Invalid("from", "%v", err)
		}
		from = t.AsTime()
	}
	if t := req.GetTo(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, fault.Invalid("to", "%v", err)
		}
		to = t.AsTime()
	}
	if to.Before(from) {
		return nil, fault.Invalid("to", "it lies before from")
	}
	rows := r.history.Usage(func(name string) bool {
		s, err := subject.ParseService(name)
		return err == nil && rpc.Within(s, of)
	}, from, to)
	resp := &solov1.UsageResponse{Rows: rows}
	if n := proto.Size(resp); n > maxUsageBytes {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "%d services are too many for one answer; ask namespace by namespace", len(rows)).
			AddField("service", "name one namespace: namespace/*")
	}
	return resp, nil
}
