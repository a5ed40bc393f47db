// Package standin serves solo.v1.SoloKernel from memory for tests of clients: a real gRPC
// server on a free port of the loopback that keeps services and capabilities in maps and
// enforces nothing but the contract's shapes. What Solo itself does is tested against Solo.
package standin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Epoch is the time of everything that happens here.
func Epoch() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC) }

// Server is one stand-in.
type Server struct {
	solov1.UnimplementedSoloKernelServer
	// Addr is where it listens.
	Addr string

	mu        sync.Mutex
	services  map[string]*solov1.Service                 // mu
	caps      map[string]*solov1.Capability              // mu
	artifacts map[string][]byte                          // mu
	grants    map[string]*solov1.GrantCapabilityResponse // mu; by request id
	last      map[string]proto.Message                   // mu; the last request of each method
	seen      int                                        // mu; chunks received
	flaky     int                                        // mu
}

// Start serves on a free port until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1:0")
}

// StartAt serves on an address until the test ends.
func StartAt(t testing.TB, addr string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Addr: l.Addr().String(), services: map[string]*solov1.Service{}, caps: map[string]*solov1.Capability{}, artifacts: map[string][]byte{},
		grants: map[string]*solov1.GrantCapabilityResponse{}, last: map[string]proto.Message{},
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(8<<20), grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := s.admit(ctx, info.FullMethod, req); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}), grpc.StreamInterceptor(func(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := s.admit(st.Context(), info.FullMethod, nil); err != nil {
			return err
		}
		return next(srv, st)
	}))
	solov1.RegisterSoloKernelServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // a test may end before serving has begun
			t.Error(err)
		}
	})
	return s
}

// Last is the last request of a method, such as "Deploy".
func (s *Server) Last(method string) proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[method]
}

// Chunks is how many chunks of code came.
func (s *Server) Chunks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Stumble makes the next n calls fail with UNAVAILABLE.
func (s *Server) Stumble(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flaky = n
}

func (s *Server) admit(ctx context.Context, full string, req any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	seed, ok := strings.CutPrefix(strings.Join(md.Get("authorization"), " "), "Bearer ")
	if _, err := nkeys.FromSeed([]byte(seed)); !ok || err != nil {
		return fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "no handle came with the call")
	}
	if s.flaky > 0 {
		s.flaky--
		return fault.Unavailable(time.Millisecond, "try again")
	}
	if m, ok := req.(proto.Message); ok {
		s.last[full[strings.LastIndexByte(full, '/')+1:]] = proto.Clone(m)
	}
	return nil
}

func unknown(name string) error {
	return fault.New(codes.NotFound, fault.ReasonServiceNotFound, "there is no service %s", name)
}

// Deploy keeps the service; code that holds the word broken does not compile.
func (s *Server) Deploy(_ context.Context, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range req.GetCode().GetFiles().GetFiles() {
		if bytes.Contains(b, []byte("broken")) {
			return nil, fault.New(codes.InvalidArgument, fault.ReasonBuildFailed, "the source does not compile: main.go:4:2: declared and not used: x").
				AddField("code.files[main.go:4:2]", "declared and not used: x").
				With("diagnostics", `[{"file":"main.go","line":4,"column":2,"message":"declared and not used: x"},{"file":"main.go","line":7,"column":1,"message":"missing return"}]`)
		}
	}
	if d := req.GetCode().GetSha256(); d != "" && s.artifacts[d] == nil {
		return nil, fault.New(codes.NotFound, fault.ReasonArtifactNotFound, "there is no artifact %s", d)
	}
	name := req.GetManifest().GetName()
	if s.services[name] != nil {
		return nil, fault.New(codes.AlreadyExists, fault.ReasonServiceExists, "%s runs already", name)
	}
	v := &solov1.Service{
		Name: name, State: solov1.ServiceState_SERVICE_STATE_RUNNING, Revision: 1, Manifest: req.GetManifest(), DeployedAt: timestamppb.New(Epoch()), DeployedBy: "UAAA",
		CodeSha256: strings.Repeat("ab", 32), Enforcement: []string{"memory: hard"}, LastError: "none of note",
		Grants:    []*solov1.ServiceGrant{{Rule: "svc:a/b=call:c", CapabilityId: "UBBB"}, {Rule: "svc:a/d=call:c", CapabilityId: "UBBB", Live: true}},
		Instances: []*solov1.Instance{{Id: "i1", Node: "n1", State: solov1.InstanceState_INSTANCE_STATE_READY, Revision: 1, MemoryBytes: 3 << 20, CpuMs: 12, Pid: 77}},
		Rollout:   &solov1.Rollout{Id: "r1", FromRevision: 1, ToRevision: 1, State: solov1.RolloutState_ROLLOUT_STATE_SUCCEEDED},
	}
	resp := &solov1.DeployResponse{Service: v, StartupMs: 1.5, Cached: true, Diagnostics: []*solov1.Diagnostic{{File: "main.go", Line: 3, Column: 1, Message: "odd", Severity: "warning"}}}
	if !req.GetValidateOnly() {
		s.services[name] = v
	}
	return resp, nil
}

// Update counts the revision up.
func (s *Server) Update(_ context.Context, req *solov1.UpdateRequest) (*solov1.UpdateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := req.GetManifest().GetUpdate().GetStrategy(); st > solov1.Strategy_STRATEGY_RECREATE {
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "strategy %s is not built yet: use recreate", st)
	}
	v := s.services[req.GetManifest().GetName()]
	if v == nil {
		return nil, unknown(req.GetManifest().GetName())
	}
	v.Revision++
	return &solov1.UpdateResponse{Rollout: &solov1.Rollout{Id: "r2", FromRevision: v.GetRevision() - 1, ToRevision: v.GetRevision(), State: solov1.RolloutState_ROLLOUT_STATE_SUCCEEDED, Error: "all well"}}, nil
}

// Status returns one service.
func (s *Server) Status(_ context.Context, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.services[req.GetService()]; v != nil {
		return &solov1.StatusResponse{Service: v}, nil
	}
	return nil, unknown(req.GetService())
}

// Kill stops a service.
func (s *Server) Kill(_ context.Context, req *solov1.KillRequest) (*solov1.KillResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.services[req.GetService()]
	if v == nil {
		return nil, unknown(req.GetService())
	}
	if req.GetInstance() == "" {
		v.State = solov1.ServiceState_SERVICE_STATE_STOPPED
		delete(s.services, req.GetService())
	}
	return &solov1.KillResponse{Service: v}, nil
}

// List returns one service a page.
func (s *Server) List(_ context.Context, req *solov1.ListRequest) (*solov1.ListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &solov1.ListResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		if name <= req.GetPageToken() || !strings.HasPrefix(name, req.GetNamespace()) {
			continue
		}
		if len(resp.Services) == 1 {
			resp.NextPageToken = resp.Services[0].GetName()
			break
		}
		resp.Services = append(resp.Services, s.services[name])
	}
	return resp, nil
}

// Call answers op echo with the payload, op bytes with what is no text and op slow never; the
// others fail, each in its way.
func (s *Server) Call(ctx context.Context, req *solov1.CallRequest) (*solov1.CallResponse, error) {
	b := req.GetPayload()
	if t := req.GetText(); t != "" {
		b = []byte(t)
	}
	switch req.GetOp() {
	case "echo":
		return &solov1.CallResponse{Payload: b, Text: string(b), Instance: "i1", Revision: 1}, nil
	case "bytes":
		return &solov1.CallResponse{Payload: []byte{0xff, 0}, Instance: "i1", Revision: 1}, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "secret":
		return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "the capability does not allow call:secret").
			With("smallest_grant", "svc:"+req.GetService()+"=call:secret").With("grantors", "UGGG").With("holder", "UHHH")
	case "busy":
		return nil, fault.New(codes.ResourceExhausted, fault.ReasonMailboxFull, "too many messages wait").Retry(time.Second)
	}
	return nil, fault.New(codes.NotFound, fault.ReasonOperationUnknown, "no operation %q", req.GetOp()).With("operations", "echo, bytes")
}

// GrantCapability repeats what it granted for a request id.
func (s *Server) GrantCapability(_ context.Context, req *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.grants[req.GetRequestId()]; r != nil {
		return r, nil
	}
	if req.GetDepth() > 3 {
		return nil, fault.New(codes.PermissionDenied, fault.ReasonGrantDepth, "depth: at most 3")
	}
	c := &solov1.Capability{Id: req.GetPublicKey(), Parent: "UPPP", Label: req.GetLabel(), Rules: req.GetRules(), Depth: req.GetDepth(), Live: true, Kind: "holder", ExpiresAt: timestamppb.New(Epoch()), GrantedAt: timestamppb.New(Epoch())}
	s.caps[c.GetId()] = c
	s.grants[req.GetRequestId()] = &solov1.GrantCapabilityResponse{Capability: c}
	return s.grants[req.GetRequestId()], nil
}

// RevokeCapability kills one.
func (s *Server) RevokeCapability(_ context.Context, req *solov1.RevokeCapabilityRequest) (*solov1.RevokeCapabilityResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.caps[req.GetId()]
	if c == nil {
		return nil, fault.New(codes.NotFound, fault.ReasonCapabilityNotFound, "there is no capability %s among yours", req.GetId())
	}
	if !c.GetLive() {
		return &solov1.RevokeCapabilityResponse{}, nil
	}
	c.Live, c.RevokedAt = false, timestamppb.New(Epoch())
	return &solov1.RevokeCapabilityResponse{RevokedCount: 1, ConnectionsCut: 2}, nil
}

// DescribeCapability returns the asker's, with one child a page.
func (s *Server) DescribeCapability(_ context.Context, req *solov1.DescribeCapabilityRequest) (*solov1.DescribeCapabilityResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &solov1.DescribeCapabilityResponse{
		Capability: &solov1.Capability{Id: "UPPP", Live: true, Rules: []string{"svc:*/*=*"}, Depth: 16, Label: "operator"},
		Ancestors:  []*solov1.Capability{{Id: "UROOT", Live: true}},
	}
	for _, id := range slices.Sorted(maps.Keys(s.caps)) {
		if id <= req.GetPageToken() {
			continue
		}
		if len(resp.Children) == 1 {
			resp.NextPageToken = resp.Children[0].GetId()
			break
		}
		resp.Children = append(resp.Children, s.caps[id])
	}
	return resp, nil
}

// Can allows everything about namespace acme.
func (s *Server) Can(_ context.Context, req *solov1.CanRequest) (*solov1.CanResponse, error) {
	if strings.HasPrefix(req.GetRule(), "svc:acme/") {
		return &solov1.CanResponse{Allowed: true}, nil
	}
	return &solov1.CanResponse{Denial: &solov1.Denial{Message: "not granted", SmallestGrant: req.GetRule(), Grantors: []string{"UGGG"}}}, nil
}

// Crashes knows one crash of acme/echo.
func (s *Server) Crashes(_ context.Context, req *solov1.CrashesRequest) (*solov1.CrashesResponse, error) {
	if req.GetService() != "acme/echo" {
		return &solov1.CrashesResponse{}, nil
	}
	return &solov1.CrashesResponse{Crashes: []*solov1.Crash{{Id: "c1", Time: timestamppb.New(Epoch()), Service: "acme/echo", Instance: "i1", Revision: 1, Kind: "trap", Message: "unreachable", Trace: "a.go:1\nb.go:2", Logs: []string{"last words"}, MemoryBytes: 1 << 30, MemoryLimitBytes: 2 << 30}}}, nil
}

// SubscribeAudit makes a consumer for whoever asks.
func (s *Server) SubscribeAudit(_ context.Context, req *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, error) {
	return &solov1.SubscribeAuditResponse{
		Stream: "AUDIT", Consumer: "UPPP", Domain: "audit", Existed: req.GetAfterSequence() == 7, MaxBatch: 512, MaxWait: durationpb.New(30 * time.Second),
		MaxUnacknowledged: 1024, MaxWaiting: 4, IdleTime: durationpb.New(24 * time.Hour),
	}, nil
}

// Usage knows one row.
func (s *Server) Usage(_ context.Context, req *solov1.UsageRequest) (*solov1.UsageResponse, error) {
	if req.GetService() == "acme/typo" {
		return &solov1.UsageResponse{}, nil
	}
	return &solov1.UsageResponse{Rows: []*solov1.UsageRow{{Service: "acme/echo", CpuMs: 1500, PeakMemoryBytes: 2 << 20, Calls: 9, Errors: 1}}}, nil
}

// Nodes knows two.
func (s *Server) Nodes(context.Context, *solov1.NodesRequest) (*solov1.NodesResponse, error) {
	return &solov1.NodesResponse{Nodes: []*solov1.Node{{Name: "n1", Ready: true, Cpus: 2, MemoryBytes: 1 << 34, Instances: 3, Version: "0.1.0"}, {Name: "n2"}}}, nil
}

// Shutdown says when.
func (s *Server) Shutdown(context.Context, *solov1.ShutdownRequest) (*solov1.ShutdownResponse, error) {
	return &solov1.ShutdownResponse{Deadline: timestamppb.New(Epoch())}, nil
}

// Watch sends two events and ends as a component that restarts does.
func (s *Server) Watch(req *solov1.WatchRequest, out grpc.ServerStreamingServer[solov1.WatchResponse]) error {
	for i := range uint64(2) {
		if err := out.Send(&solov1.WatchResponse{Event: &solov1.Event{Sequence: req.GetAfterSequence() + i + 1, Time: timestamppb.New(Epoch()), Service: "acme/echo", Type: "running", Instance: "i1", Revision: 1, Message: "hello\x1b[31m"}}); err != nil {
			return err
		}
	}
	if req.GetService() == "acme/lost" {
		return fault.Unavailable(0, "the stream was lost")
	}
	return nil
}

// Logs sends two lines, none of acme/typo, and goes on for ever when it is followed.
func (s *Server) Logs(req *solov1.LogsRequest, out grpc.ServerStreamingServer[solov1.LogsResponse]) error {
	if req.GetService() == "acme/typo" {
		return nil
	}
	for _, r := range []*solov1.LogRecord{{Stream: "stdout", Line: "one"}, {Stream: "log", Level: "warn", Line: "two"}} {
		r.Time, r.Instance = timestamppb.New(Epoch()), "i1"
		if err := out.Send(&solov1.LogsResponse{Record: r}); err != nil {
			return err
		}
	}
	if req.GetFollow() {
		<-out.Context().Done()
		return out.Context().Err()
	}
	return nil
}

// Audit sends two records.
func (s *Server) Audit(req *solov1.AuditRequest, out grpc.ServerStreamingServer[solov1.AuditResponse]) error {
	for i, r := range []*solov1.AuditRecord{
		{Component: "deployer", Event: "deploy", Phase: "intent", Object: "svc:acme/echo", Decision: "allowed", Holder: "UAAA"},
		{Component: "capmgr", Event: "denied", Phase: "fact", Decision: "denied", Count: 3, Attributes: map[string]string{"b": "2", "a": "1"}},
	} {
		r.Time = timestamppb.New(Epoch())
		if err := out.Send(&solov1.AuditResponse{Sequence: req.GetAfterSequence() + uint64(i) + 1, Record: r}); err != nil {
			return err
		}
	}
	return nil
}

// UploadArtifact keeps the code.
func (s *Server) UploadArtifact(in grpc.ClientStreamingServer[solov1.UploadArtifactRequest, solov1.UploadArtifactResponse]) error {
	var all []byte
	want := ""
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if want == "" {
			want = m.GetSha256()
			s.mu.Lock()
			held, ok := s.artifacts[want]
			s.mu.Unlock()
			if ok {
				return in.SendAndClose(&solov1.UploadArtifactResponse{Sha256: want, Size: uint64(len(held)), Existed: true})
			}
		}
		if len(m.GetChunk()) > 0 {
			s.mu.Lock()
			s.seen++
			s.mu.Unlock()
			all = append(all, m.GetChunk()...)
		}
	}
	sum := sha256.Sum256(all)
	if hex.EncodeToString(sum[:]) != want {
		return fault.Invalid("sha256", "the chunks have another digest")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[want] = all
	return in.SendAndClose(&solov1.UploadArtifactResponse{Sha256: want, Size: uint64(len(all))})
}
