package kernel

import (
	"context"
	"time"

	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Status returns one service.
func (s *Server) Status(ctx context.Context, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
	of, err := service(req.GetService())
	if err != nil {
		return nil, err
	}
	resp := &solov1.StatusResponse{}
	return resp, s.ask(ctx, subject.Registry, "status", of, req, resp)
}

// Kill stops a service or ends one instance.
func (s *Server) Kill(ctx context.Context, req *solov1.KillRequest) (*solov1.KillResponse, error) {
	of, err := service(req.GetService())
	if err != nil {
		return nil, err
	}
	ctx, cancel := patient(ctx, req.GetGracePeriod().AsDuration()+time.Minute)
	defer cancel()
	resp := &solov1.KillResponse{}
	return resp, s.ask(ctx, subject.Deployer, "kill", of, req, resp)
}

// Rollback returns a service to a kept revision.
func (s *Server) Rollback(ctx context.Context, req *solov1.RollbackRequest) (*solov1.RollbackResponse, error) {
	of, err := service(req.GetService())
	if err != nil {
		return nil, err
	}
	ctx, cancel := patient(ctx, Patience)
	defer cancel()
	resp := &solov1.RollbackResponse{}
	return resp, s.ask(ctx, subject.Deployer, "rollback", of, req, resp)
}

// Crashes lists crash records.
func (s *Server) Crashes(ctx context.Context, req *solov1.CrashesRequest) (*solov1.CrashesResponse, error) {
	of, err := service(req.GetService())
	if err != nil {
		return nil, err
	}
	resp := &solov1.CrashesResponse{}
	return resp, s.ask(ctx, subject.Deployer, "crashes", of, req, resp)
}

// Usage reports what services used.
func (s *Server) Usage(ctx context.Context, req *solov1.UsageRequest) (*solov1.UsageResponse, error) {
	of := subject.Nothing()
	if req.GetService() != "" {
		var err error
		if of, err = pattern(req.GetService()); err != nil {
			return nil, err
		}
	}
	resp := &solov1.UsageResponse{}
	return resp, s.ask(ctx, subject.Resmon, "usage", of, req, resp)
}

// Nodes lists the nodes.
func (s *Server) Nodes(ctx context.Context, req *solov1.NodesRequest) (*solov1.NodesResponse, error) {
	resp := &solov1.NodesResponse{}
	return resp, s.ask(ctx, subject.Registry, "nodes", subject.Nothing(), req, resp)
}

// Shutdown stops all of Solo.
func (s *Server) Shutdown(ctx context.Context, req *solov1.ShutdownRequest) (*solov1.ShutdownResponse, error) {
	resp := &solov1.ShutdownResponse{}
	return resp, s.ask(ctx, subject.Kernel, "shutdown", subject.Nothing(), req, resp)
}

// GrantCapability attenuates and delegates.
func (s *Server) GrantCapability(ctx context.Context, req *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
	if k := req.GetPublicKey(); k != "" && !subject.ValidID(k) {
		return nil, fault.Invalid("public_key", "it is no user public key: want U and 55 more characters")
	}
	resp := &solov1.GrantCapabilityResponse{}
	return resp, s.ask(ctx, subject.Capmgr, "grant", subject.Nothing(), req, resp)
}

// RevokeCapability kills a subtree.
func (s *Server) RevokeCapability(ctx context.Context, req *solov1.RevokeCapabilityRequest) (*solov1.RevokeCapabilityResponse, error) {
	if !subject.ValidID(req.GetId()) {
		return nil, fault.Invalid("id", "it is no capability id: want U and 55 more characters")
	}
	resp := &solov1.RevokeCapabilityResponse{}
	err := s.ask(ctx, subject.Capmgr, "revoke", subject.Nothing(), req, resp)
	if req.GetId() == from(ctx).Peer.ID && fault.Is(err, fault.ReasonHandleRefused) {
		return s.ownEnd(ctx)
	}
	return resp, err
}

// ownEnd answers one who revoked the handle that asked: the connection was cut before the answer
// came, and the bus refuses the handle. What was revoked with it is not known here. By then
// every gate has acknowledged, or its lease has run out.
func (s *Server) ownEnd(ctx context.Context) (*solov1.RevokeCapabilityResponse, error) {
	if err := pause(ctx, fence.AckTime+fence.LeaseTime); err != nil {
		return nil, err
	}
	return &solov1.RevokeCapabilityResponse{RevokedCount: 1, ConnectionsCut: 1}, nil
}

// DescribeCapability returns a capability of the holder's subtree.
func (s *Server) DescribeCapability(ctx context.Context, req *solov1.DescribeCapabilityRequest) (*solov1.DescribeCapabilityResponse, error) {
	if id := req.GetId(); id != "" && !subject.ValidID(id) {
		return nil, fault.Invalid("id", "it is no capability id: want U and 55 more characters, or nothing for your own")
	}
	resp := &solov1.DescribeCapabilityResponse{}
	return resp, s.ask(ctx, subject.Capmgr, "describe", subject.Nothing(), req, resp)
}

// Can tells whether the holder would be allowed a rule.
func (s *Server) Can(ctx context.Context, req *solov1.CanRequest) (*solov1.CanResponse, error) {
	resp := &solov1.CanResponse{}
	return resp, s.ask(ctx, subject.Capmgr, "can", subject.Nothing(), req, resp)
}

// SubscribeAudit makes a consumer of the audit trail.
func (s *Server) SubscribeAudit(ctx context.Context, req *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, error) {
	resp := &solov1.SubscribeAuditResponse{}
	return resp, s.ask(ctx, subject.Capmgr, "auditor", subject.Nothing(), req, resp)
}
