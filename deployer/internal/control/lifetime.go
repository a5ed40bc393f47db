package control

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/gate"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// outlived tells whether a service's right to answer has run out: the budget of whoever deployed it set
// a lifetime. The bus cuts it off at that moment; what follows here only tidies up.
func (c *Controller) outlived(reg *kernelv1.Registration) bool {
	v, ok := c.o.Table.Get(reg.GetServingId())
	return ok && v.State == gate.Expired
}

// expire stops a service that has outlived its right to answer. The service's lock is held. It returns
// when to look again, or 0.
func (c *Controller) expire(ctx context.Context, e entry) time.Duration {
	reg := proto.CloneOf(e.reg)
	reg.DesiredRunning, reg.State = false, solov1.ServiceState_SERVICE_STATE_STOPPED
	reg.LastError = "its lifetime is over: the budget it was deployed on sets one; deploy it again for another"
	if _, err := c.book.put(ctx, reg, e.kv, event(e.reg, "stopped", "%s", reg.LastError)); err != nil {
		return time.Second
	}
	for _, p := range c.actual.of(reg.GetName()) {
		c.remove(ctx, reg.GetName(), p.GetRevision(), 0)
	}
	c.disendow(ctx, reg.GetName())
	return 0
}
