package kernel

import (
	"context"
	"time"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// answerTime is how long the answer to a shutdown has to leave before the gateway stops.
const answerTime = 100 * time.Millisecond

// serve answers the system calls on the kernel itself.
func (k *kernel) serve() (err error) {
	k.server, err = rpc.NewServer(rpc.Options{
		Conn: k.nc, Component: subject.Kernel, Gate: k.fence.Table(), Log: k.log, Denied: k.audit.Denied, Concurrency: 16,
	})
	if err != nil {
		return err
	}
	rpc.Handle(k.server, "shutdown", k.shutdown)
	return k.server.Start()
}

// shutdown is told to everyone by the end of the kernel's context; its outcome is recorded
// before, because afterwards nobody can.
func (k *kernel) shutdown(ctx context.Context, c rpc.Caller, req *solov1.ShutdownRequest) (*solov1.ShutdownResponse, error) {
	op, err := k.audit.Intent(ctx, auditlog.Entry{Holder: c.ID, Event: "shutdown", Object: "kernel", RequestID: req.GetRequestId(), ArgumentDigest: c.Digest})
	if err != nil {
		return nil, err
	}
	grace := shutdownGrace
	if g := req.GetGracePeriod(); g != nil {
		grace = g.AsDuration()
	}
	k.grace.Store(int64(grace))
	if err := op.Outcome(ctx, nil, map[string]string{"grace": grace.String()}); err != nil {
		return nil, err
	}
	k.wg.Go(func() {
		time.Sleep(answerTime)
		k.stop()
	})
	return &solov1.ShutdownResponse{Deadline: timestamppb.New(time.Now().Add(grace + answerTime))}, nil
}
