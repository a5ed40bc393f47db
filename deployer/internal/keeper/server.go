package keeper

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc"

	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// openPage is about how many bytes of entries one message of Open carries.
const openPage = 1 << 20

// Server answers the Keeper contract.
type Server struct {
	nodev1.UnimplementedKeeperServer
	keeper    *Keeper
	deployers *helper.Deployers
	trouble   *Troubles
	// move leads to another address of the bus; nil without a bus.
	move func(addr string)
	id   string
}

// KeeperAttach follows the deployer.
func (s *Server) KeeperAttach(r *nodev1.KeeperAttachRequest, out grpc.ServerStreamingServer[nodev1.KeeperEvent]) error {
	ctx, detach, err := s.deployers.Attach(out.Context(), r.GetDeployerEpoch())
	if err != nil {
		return err
	}
	defer detach()
	if s.move != nil {
		s.move(r.GetNatsAddr())
	}
	if err := out.Send(&nodev1.KeeperEvent{Pid: uint32(os.Getpid()), Id: s.id}); err != nil {
		return err
	}
	for {
		ev := s.trouble.next(ctx)
		if ev == nil {
			return nil
		}
		ev.Pid, ev.Id = uint32(os.Getpid()), s.id
		if err := out.Send(ev); err != nil {
			return err
		}
	}
}

// Open sends all state in pages; the last may be empty.
func (s *Server) Open(r *nodev1.OpenRequest, out grpc.ServerStreamingServer[nodev1.OpenResponse]) error {
	all, err := s.keeper.Open(out.Context(), r.GetService(), r.GetEpoch(), r.GetPolicy(), r.GetQuotaBytes())
	if err != nil {
		return fault.From(err)
	}
	page, n := &nodev1.OpenResponse{}, 0
	for key, v := range all {
		page.Entries = append(page.Entries, &nodev1.StateEntry{Key: key, Value: v})
		if n += len(key) + len(v) + 16; n < openPage {
			continue
		}
		if err := out.Send(page); err != nil {
			return err
		}
		page, n = &nodev1.OpenResponse{}, 0
	}
	return out.Send(page)
}

// Write applies a stream of batches in order.
func (s *Server) Write(stream grpc.BidiStreamingServer[nodev1.WriteRequest, nodev1.WriteResponse]) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp := &nodev1.WriteResponse{Id: r.GetId()}
		if err := s.keeper.Write(stream.Context(), r.GetService(), r.GetEpoch(), r.GetOps()); err != nil {
			f := fault.From(err)
			resp.Code, resp.Reason, resp.Message = int32(f.Code), f.Reason, f.Message
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// Flush brings changes to the bucket.
func (s *Server) Flush(ctx context.Context, r *nodev1.FlushRequest) (*nodev1.FlushResponse, error) {
	if d := r.GetTimeout().AsDuration(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	n, err := s.keeper.Flush(ctx, r.GetService())
	if err != nil {
		return nil, fault.From(err)
	}
	return &nodev1.FlushResponse{Keys: n}, nil
}

// Drop deletes a service's state.
func (s *Server) Drop(ctx context.Context, r *nodev1.DropRequest) (*nodev1.DropResponse, error) {
	if err := s.keeper.Drop(ctx, r.GetService(), r.GetEpoch()); err != nil {
		return nil, fault.From(err)
	}
	return &nodev1.DropResponse{}, nil
}

// Troubles keeps the last messages until a deployer takes them.
type Troubles struct {
	mu   sync.Mutex // guards list
	list []*nodev1.KeeperEvent
	wake chan struct{}
}

// maxTroubles bounds what waits for a deployer; the oldest go first.
const maxTroubles = 256

// NewTroubles returns an empty list.
func NewTroubles() *Troubles { return &Troubles{wake: make(chan struct{}, 1)} }

// Add takes one message.
func (t *Troubles) Add(service, message string) {
	t.mu.Lock()
	if len(t.list) == maxTroubles {
		t.list = t.list[1:]
	}
	t.list = append(t.list, &nodev1.KeeperEvent{Service: service, Message: message})
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// next waits for a message; nil when ctx ends first.
func (t *Troubles) next(ctx context.Context) *nodev1.KeeperEvent {
	for ctx.Err() == nil {
		t.mu.Lock()
		if len(t.list) > 0 {
			ev := t.list[0]
			t.list = t.list[1:]
			t.mu.Unlock()
			return ev
		}
		t.mu.Unlock()
		select {
		case <-t.wake:
		case <-ctx.Done():
		}
	}
	return nil
}
