package runner

import (
	"context"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/deployer/internal/native"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// Server answers the Runner contract.
type Server struct {
	nodev1.UnimplementedRunnerServer
	runner    *Runner
	deployers *helper.Deployers
	// done ends the process.
	done context.CancelFunc
}

// Attach follows the deployer.
func (s *Server) Attach(req *nodev1.AttachRequest, out grpc.ServerStreamingServer[nodev1.RunnerEvent]) error {
	ctx, detach, err := s.deployers.Attach(out.Context(), req.GetDeployerEpoch())
	if err != nil {
		return err
	}
	defer detach()
	s.runner.moveTo(req.GetNatsAddr())
	if err := out.Send(&nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Inventory{Inventory: &nodev1.RunnerInventory{
		Pid: uint32(os.Getpid()), Namespace: s.runner.namespace, GateId: s.runner.gateID, Placements: s.runner.describe(),
	}}}); err != nil {
		return err
	}
	for {
		ev := s.runner.hub.next(ctx)
		if ev == nil {
			return nil
		}
		if err := out.Send(ev); err != nil {
			return err
		}
	}
}

// Place starts a placement.
func (s *Server) Place(ctx context.Context, req *nodev1.PlaceRequest) (*nodev1.PlaceResponse, error) {
	begun := time.Now()
	if err := s.deployers.Check(req.GetDeployerEpoch()); err != nil {
		return nil, err
	}
	if err := valid(req.GetService()); err != nil {
		return nil, err
	}
	p, err := s.runner.place(ctx, req)
	if err != nil {
		return nil, fault.From(err)
	}
	return &nodev1.PlaceResponse{
		Placement: p.describe(), Startup: durationpb.New(time.Since(begun)), Cached: p.cached, Enforcement: p.enforcement(),
	}, nil
}

// Remove drains and ends a placement.
func (s *Server) Remove(ctx context.Context, req *nodev1.RemoveRequest) (*nodev1.RemoveResponse, error) {
	if err := s.deployers.Check(req.GetDeployerEpoch()); err != nil {
		return nil, err
	}
	cut, err := s.runner.remove(ctx, req.GetService(), req.GetRevision(), req.GetGracePeriod().AsDuration())
	if err != nil {
		return nil, fault.From(err)
	}
	return &nodev1.RemoveResponse{CallsCut: cut}, nil
}

// EndInstance ends one instance, which supervision then restarts.
func (s *Server) EndInstance(_ context.Context, req *nodev1.EndInstanceRequest) (*nodev1.EndInstanceResponse, error) {
	if err := s.deployers.Check(req.GetDeployerEpoch()); err != nil {
		return nil, err
	}
	reason := req.GetReason()
	if reason == "" {
		reason = "ended on request"
	}
	for _, p := range s.runner.find(req.GetService()) {
		for _, sl := range p.slots {
			if sl.id == req.GetInstance() && sl.tell(reason, req.GetGracePeriod().AsDuration()) {
				return &nodev1.EndInstanceResponse{}, nil
			}
		}
	}
	return nil, fault.New(codes.NotFound, fault.ReasonInstanceNotFound, "%s has no running instance %q here", req.GetService(), req.GetInstance())
}

// Throttle refuses new work of a service until a time.
func (s *Server) Throttle(_ context.Context, req *nodev1.ThrottleRequest) (*nodev1.ThrottleResponse, error) {
	if err := s.deployers.Check(req.GetDeployerEpoch()); err != nil {
		return nil, err
	}
	for _, p := range s.runner.find(req.GetService()) {
		p.throttled.Store(req.GetUntil().AsTime().UnixNano())
	}
	return &nodev1.ThrottleResponse{}, nil
}

// Sample measures everything.
func (s *Server) Sample(context.Context, *nodev1.SampleRequest) (*nodev1.SampleResponse, error) {
	s.runner.mu.Lock()
	list := s.runner.list()
	s.runner.mu.Unlock()
	out := &nodev1.SampleResponse{ProcessMemoryBytes: native.Resident(os.Getpid())}
	for _, p := range list {
		out.Placements = append(out.Placements, p.sample())
	}
	return out, nil
}

// Drain finishes what is under way and has the process exit.
func (s *Server) Drain(ctx context.Context, req *nodev1.DrainRequest) (*nodev1.DrainResponse, error) {
	if err := s.deployers.Check(req.GetDeployerEpoch()); err != nil {
		return nil, err
	}
	s.runner.end(context.WithoutCancel(ctx), req.GetGracePeriod().AsDuration())
	// The answer goes out first: the process ends a moment later.
	time.AfterFunc(20*time.Millisecond, s.done)
	return &nodev1.DrainResponse{}, nil
}
