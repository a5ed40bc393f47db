package control

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/logs"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// sampleTimeout bounds what one runner may take to measure itself; one that is slower is left out.
	sampleTimeout = 800 * time.Millisecond
	// throttleFor is how long new work is refused by one decision; the next one comes sooner while the
	// limit is exceeded.
	throttleFor = 3 * time.Second
)

// line names what a holder shares with all that come of the same grant of the root: the topmost
// capability below the root, or the root itself.
func line(t *gate.Table) func(string) string {
	return func(holder string) string {
		if up := t.Chain(holder); len(up) > 1 {
			return up[len(up)-2]
		}
		return holder
	}
}

func (c *Controller) upload(ctx context.Context, caller rpc.Caller, req *kernelv1.PutChunkRequest) (*kernelv1.PutChunkResponse, error) {
	return c.uploads.Put(ctx, caller.ID, req)
}

func (c *Controller) readLogs(ctx context.Context, caller rpc.Caller, req *solov1.LogsRequest, send func(*solov1.LogsResponse) error) error {
	s, err := caller.About("service", req.GetService())
	if err != nil {
		return err
	}
	return logs.Read(ctx, c.o.JS, logs.Query{Service: s, Instance: req.GetInstance(), Tail: int(req.GetTail()), Follow: req.GetFollow()}, func(r *solov1.LogRecord) error {
		return send(&solov1.LogsResponse{Record: r})
	})
}

// sample measures every runner, all at once.
func (c *Controller) sample(ctx context.Context, _ rpc.Caller, _ *kernelv1.SampleAllRequest) (*kernelv1.SampleAllResponse, error) {
	resp := &kernelv1.SampleAllResponse{Node: c.o.Node, HelperMemoryBytes: c.node.HelperMemory()}
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	var mu sync.Mutex
	var g errgroup.Group
	for _, r := range c.node.Runners() {
		g.Go(func() error {
			s, err := r.Sample(ctx)
			if err != nil {
				c.o.Log.Debug("a runner could not be measured", "namespace", r.Namespace(), "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			resp.Placements = append(resp.Placements, s.GetPlacements()...)
			resp.HelperMemoryBytes += s.GetProcessMemoryBytes()
			return nil
		})
	}
	_ = g.Wait() // nothing in it returns an error
	return resp, nil
}

// enforce carries out a decision about a limit.
func (c *Controller) enforce(ctx context.Context, _ rpc.Caller, req *kernelv1.EnforceRequest) (*kernelv1.EnforceResponse, error) {
	r := c.runnerOf(req.GetService())
	if r == nil {
		return nil, fault.New(codes.NotFound, fault.ReasonInstanceNotFound, "nothing of %s runs on this node", req.GetService())
	}
	l := &nodev1.LimitEvent{Service: req.GetService(), Instance: req.GetInstance(), Limit: req.GetLimit(), Mark: "hard", Value: req.GetValue(), Bound: req.GetBound()}
	var err error
	switch req.GetAction() {
	case solov1.LimitAction_LIMIT_ACTION_KILL:
		l.Action = "kill"
		if req.GetInstance() == "" {
			return nil, fault.Invalid("instance", "say which instance is to be killed")
		}
		err = r.EndInstance(ctx, req.GetService(), req.GetInstance(), req.GetLimit()+" limit exceeded", 0)
	case solov1.LimitAction_LIMIT_ACTION_THROTTLE:
		l.Action = "throttle"
		err = r.Throttle(ctx, req.GetService(), req.GetLimit()+" limit exceeded", time.Now().Add(throttleFor))
	case solov1.LimitAction_LIMIT_ACTION_WARN:
		l.Action = "warn"
	default:
		return nil, fault.Invalid("action", "kill, throttle or warn")
	}
	if err != nil {
		return nil, err
	}
	ev := limitEvent(l)
	ev.Time = timestamppb.Now()
	c.report.change("", 0, ev)
	return &kernelv1.EnforceResponse{}, nil
}
