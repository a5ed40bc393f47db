package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// Runner is a namespace's runner process. Its requests carry the epoch of the newest attachment.
type Runner struct {
	n         *Node
	namespace string
	ready     chan struct{} // closed after the first attachment, or when there will be none
	err       error         // set before ready is closed: why there is none
	proc      *process      // set before ready is closed
	client    nodev1.RunnerClient
	epoch     atomic.Uint64
}

// Namespace that it serves.
func (r *Runner) Namespace() string { return r.namespace }

// attached tells whether the first attachment has happened.
func (r *Runner) attached() bool {
	select {
	case <-r.ready:
		return r.err == nil
	default:
		return false
	}
}

// live starts or adopts the process and follows it to its end.
func (r *Runner) live(old *record) {
	n := r.n
	err := r.begin(old)
	if err == nil {
		shown := false
		r.proc.follow(n.ctx, func(ctx context.Context, epoch uint64, attached func()) error {
			return r.receive(ctx, epoch, func(inv *nodev1.RunnerInventory) {
				attached()
				n.o.Events.Inventory(r.namespace, inv)
				if !shown {
					shown = true
					close(r.ready)
				}
			})
		})
		if shown {
			if closing := n.over(r); !closing && n.ctx.Err() == nil {
				n.o.Events.Down(r.namespace)
			}
			return
		}
		err = errors.New("the process answered nothing")
	}
	if n.ctx.Err() != nil {
		err = errClosing
	}
	n.o.Log.Error("a runner does not start", "namespace", r.namespace, "error", err)
	r.err = err
	n.over(r)
	close(r.ready)
}

func (r *Runner) begin(old *record) (err error) {
	if old != nil {
		r.proc, err = r.n.process(*old, nil)
	} else {
		r.n.backoff(r.n.ctx, r.namespace)
		r.proc, err = r.n.start(r.n.ctx, r.n.takeSpare, r.namespace)
	}
	if err != nil {
		return err
	}
	r.client = nodev1.NewRunnerClient(r.proc.conn)
	return nil
}

func (r *Runner) receive(ctx context.Context, epoch uint64, first func(*nodev1.RunnerInventory)) error {
	s, err := r.client.Attach(ctx, &nodev1.AttachRequest{DeployerEpoch: epoch, NatsAddr: r.n.o.NatsAddr, KernelId: r.n.o.KernelID})
	if err != nil {
		return err
	}
	for begun := false; ; {
		ev, err := s.Recv()
		if err != nil {
			return err
		}
		inv := ev.GetInventory()
		switch {
		case inv != nil && !begun:
			begun = true
			r.epoch.Store(epoch)
			first(inv)
		case inv != nil:
			r.n.o.Events.Inventory(r.namespace, inv)
		case begun:
			r.n.o.Events.Event(r.namespace, ev)
		}
	}
}

// Place starts a placement; see the contract.
func (r *Runner) Place(ctx context.Context, req *nodev1.PlaceRequest) (*nodev1.PlaceResponse, error) {
	req.DeployerEpoch = r.epoch.Load()
	resp, err := r.client.Place(ctx, req)
	return resp, r.fault(err)
}

// Remove drains and ends a placement. What is not there is removed.
func (r *Runner) Remove(ctx context.Context, service string, revision uint64, grace time.Duration) (cut uint32, err error) {
	resp, err := r.client.Remove(ctx, &nodev1.RemoveRequest{DeployerEpoch: r.epoch.Load(), Service: service, Revision: revision, GracePeriod: durationpb.New(grace)})
	if status.Code(err) == codes.NotFound {
		return 0, nil
	}
	return resp.GetCallsCut(), r.fault(err)
}

// EndInstance ends one instance, which supervision restarts.
func (r *Runner) EndInstance(ctx context.Context, service, instance, reason string, grace time.Duration) error {
	_, err := r.client.EndInstance(ctx, &nodev1.EndInstanceRequest{
		DeployerEpoch: r.epoch.Load(), Service: service, Instance: instance, GracePeriod: durationpb.New(grace), Reason: reason,
	})
	return r.fault(err)
}

// Throttle refuses new work of a service until a time.
func (r *Runner) Throttle(ctx context.Context, service, reason string, until time.Time) error {
	_, err := r.client.Throttle(ctx, &nodev1.ThrottleRequest{DeployerEpoch: r.epoch.Load(), Service: service, Until: timestamppb.New(until), Reason: reason})
	return r.fault(err)
}

// Sample measures what the runner holds.
func (r *Runner) Sample(ctx context.Context) (*nodev1.SampleResponse, error) {
	resp, err := r.client.Sample(ctx, &nodev1.SampleRequest{})
	return resp, r.fault(err)
}

// Drain ends the runner after what is under way; its process exits.
func (r *Runner) Drain(ctx context.Context, grace time.Duration) error {
	_, err := r.client.Drain(ctx, &nodev1.DrainRequest{DeployerEpoch: r.epoch.Load(), GracePeriod: durationpb.New(grace)})
	return r.fault(err)
}

// fault keeps what the runner says, and calls a runner that cannot be reached unavailable.
func (r *Runner) fault(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if ok && st.Code() == codes.Unavailable && len(st.Details()) == 0 {
		return fault.Unavailable(100*time.Millisecond, "the runner of namespace %s cannot be reached", r.namespace).Because(err)
	}
	if ok && st.Code() == codes.DeadlineExceeded && len(st.Details()) == 0 {
		return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the runner of namespace %s did not answer in time", r.namespace).Because(err)
	}
	return fault.From(err)
}
