package kernel

import (
	"context"
	"errors"

	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Watch streams lifecycle events.
func (s *Server) Watch(req *solov1.WatchRequest, out grpc.ServerStreamingServer[solov1.WatchResponse]) error {
	of, err := pattern(req.GetService())
	if err != nil {
		return err
	}
	return pass(s, out, subject.Registry, "watch", of, req)
}

// Logs streams what instances wrote.
func (s *Server) Logs(req *solov1.LogsRequest, out grpc.ServerStreamingServer[solov1.LogsResponse]) error {
	of, err := pattern(req.GetService())
	if err != nil {
		return err
	}
	return pass(s, out, subject.Deployer, "logs", of, req)
}

// Audit streams the audit trail.
func (s *Server) Audit(req *solov1.AuditRequest, out grpc.ServerStreamingServer[solov1.AuditResponse]) error {
	return pass(s, out, subject.Audit, "read", subject.Nothing(), req)
}

// message is a pointer to a generated message.
type message[T any] interface {
	*T
	proto.Message
}

// pass reads a stream on the bus as the holder and sends it on. The client's flow control holds
// back the reader's credit, so a slow client slows the component's stream and nothing else.
func pass[T any, M message[T]](s *Server, out grpc.ServerStreamingServer[T], component, op string, of subject.Service, req proto.Message) error {
	c := from(out.Context())
	ctx, cancel := context.WithCancelCause(out.Context())
	defer cancel(nil)
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.draining:
			cancel(errDraining)
		case <-stop:
		}
	}()
	defer func() { close(stop); <-watched }()
	subj := subject.Str(component, op, of, c.Peer.ID)
	err := c.Do(ctx, subj, func(ctx context.Context) error {
		r, err := c.Peer.Open(ctx, component, op, of, req)
		if err != nil {
			return err
		}
		defer r.Close()
		for {
			v := M(new(T))
			if err := r.Next(ctx, v); errors.Is(err, rpc.ErrEnd) {
				return nil
			} else if err != nil {
				return err
			}
			if err := out.Send((*T)(v)); err != nil {
				return err
			}
		}
	})
	if errors.Is(context.Cause(ctx), errDraining) {
		return Stopping()
	}
	return s.translate(out.Context(), c, subj, err)
}

var errDraining = errors.New("draining")
