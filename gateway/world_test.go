package gateway_test

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/gateway"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/agent"
	"google.golang.org/grpc/codes"
)

// world is a gateway on a real bus, with processes behind real gates in the place of the
// components: they answer from maps, so a test sees what arrives and decides what goes back.
type world struct {
	*bustest.World
	addr string
	logs *logBuffer
	reg  *prometheus.Registry
	stop func()

	mu       sync.Mutex
	services map[string]*solov1.Service // mu
	rules    map[string][]string        // mu; by holder
	chunks   []*kernelv1.PutChunkRequest
	held     map[string]bool
	seen     map[string]rpc.Caller // mu; the last caller of component.op
	deployed *solov1.DeployRequest // mu
	refusals map[refusal]int       // mu; what was told of refused handles
	begun    chan string           // an op that is held back has begun
	// revoke answers in the place of capmgr; set before any call.
	revoke func(holder, id string) (*solov1.RevokeCapabilityResponse, error)
}

// refusal is what the gateway tells of a handle that came to nothing.
type refusal struct {
	id, place string
	slowed    bool
}

// logBuffer collects everything the gateway logs.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t testing.TB, cfg gateway.Config) *world {
	t.Helper()
	w := &world{
		World: bustest.Start(t), services: map[string]*solov1.Service{}, rules: map[string][]string{}, held: map[string]bool{}, refusals: map[refusal]int{},
		seen: map[string]rpc.Caller{}, begun: make(chan string, 16), logs: &logBuffer{}, reg: prometheus.NewRegistry(),
	}
	w.component(t, subject.Registry, w.registry)
	w.component(t, subject.Capmgr, w.capmgr)
	w.component(t, subject.Deployer, w.deployer)
	w.component(t, subject.Audit, w.audit)
	w.component(t, subject.Resmon, w.resmon)
	w.gateway(t, cfg)
	return w
}

func (w *world) gateway(t testing.TB, cfg gateway.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	go func() {
		ended <- gateway.Run(ctx, cfg, gateway.Options{
			Live: func(id string) bool { return w.Fence.Table().Live(id) == gate.Allowed },
			Refused: func(id, place string, slowed bool) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.refusals[refusal{id, place, slowed}]++
			},
			BusAddr: w.Addr, Log: slog.New(slog.NewTextHandler(w.logs, nil)), Metrics: w.reg,
			Ready: func(_ context.Context, addr string) error { ready <- addr; return nil },
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the gateway ended: %v", err)
		}
	})
	t.Cleanup(w.stop)
	select {
	case w.addr = <-ready:
	case err := <-ended:
		t.Fatalf("the gateway did not start: %v", err)
	}
}

func (w *world) component(t testing.TB, name string, ops func(*rpc.Server)) {
	t.Helper()
	p := w.Process(t, name)
	s, err := p.Server()
	if err != nil {
		t.Fatal(err)
	}
	ops(s)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
}

func (w *world) note(op string, c rpc.Caller) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[op] = c
}

func (w *world) caller(op string) rpc.Caller {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[op]
}

func (w *world) registry(s *rpc.Server) {
	rpc.Handle(s, "status", func(_ context.Context, c rpc.Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
		w.note("registry.status", c)
		if req.GetService() == "acme/slow" {
			w.begun <- "status"
			return nil, fault.Unavailable(0, "not yet")
		}
		return &solov1.StatusResponse{Service: &solov1.Service{Name: req.GetService()}}, nil
	})
	rpc.Handle(s, "list", func(_ context.Context, c rpc.Caller, req *solov1.ListRequest) (*solov1.ListResponse, error) {
		w.note("registry.list", c)
		w.mu.Lock()
		defer w.mu.Unlock()
		resp := &solov1.ListResponse{}
		size := int(req.GetPageSize())
		for _, name := range slices.Sorted(maps.Keys(w.services)) {
			of, err := subject.ParseService(name)
			if err != nil {
				return nil, err
			}
			if name <= req.GetPageToken() || !rpc.Within(of, c.Service) {
				continue
			}
			if len(resp.Services) == min(size, 2) { // two a page, whatever is asked for
				resp.NextPageToken = resp.Services[len(resp.Services)-1].GetName()
				break
			}
			resp.Services = append(resp.Services, w.services[name])
		}
		return resp, nil
	})
	rpc.Handle(s, "resolve", func(_ context.Context, _ rpc.Caller, req *kernelv1.ResolveRequest) (*kernelv1.ResolveResponse, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		v := w.services[req.GetService()]
		select {
		case w.begun <- "resolve":
		default:
		}
		return &kernelv1.ResolveResponse{Exists: v != nil, State: v.GetState(), LastError: v.GetLastError()}, nil
	})
	rpc.Handle(s, "nodes", func(_ context.Context, c rpc.Caller, _ *solov1.NodesRequest) (*solov1.NodesResponse, error) {
		w.note("registry.nodes", c)
		return &solov1.NodesResponse{Nodes: []*solov1.Node{{Name: "n1"}}}, nil
	})
	rpc.HandleStream(s, "watch", func(ctx context.Context, c rpc.Caller, req *solov1.WatchRequest, send func(*solov1.WatchResponse) error) error {
		w.note("registry.watch", c)
		for i := range uint64(1000) {
			if err := send(&solov1.WatchResponse{Event: &solov1.Event{Sequence: req.GetAfterSequence() + i + 1, Service: req.GetService()}}); err != nil {
				return err
			}
		}
		switch req.GetService() {
		case "acme/ends":
			return nil
		case "acme/fails":
			return fault.New(codes.DataLoss, fault.ReasonDataLoss, "a record is unreadable")
		}
		<-ctx.Done()
		return ctx.Err()
	})
}

func (w *world) capmgr(s *rpc.Server) {
	rpc.Handle(s, "describe", func(_ context.Context, c rpc.Caller, _ *solov1.DescribeCapabilityRequest) (*solov1.DescribeCapabilityResponse, error) {
		w.note("capmgr.describe", c)
		w.mu.Lock()
		defer w.mu.Unlock()
		return &solov1.DescribeCapabilityResponse{Capability: &solov1.Capability{Id: c.ID, Live: true, Rules: w.rules[c.ID]}}, nil
	})
	rpc.Handle(s, "explain", func(_ context.Context, c rpc.Caller, req *kernelv1.ExplainRequest) (*kernelv1.ExplainResponse, error) {
		w.note("capmgr.explain", c)
		m, err := subject.ParseCall(req.GetSubject())
		if err != nil {
			return &kernelv1.ExplainResponse{}, nil // nothing to say: the gateway must still answer
		}
		o := capability.ServiceObject(m.Service).String()
		return &kernelv1.ExplainResponse{Denial: &solov1.Denial{
			Object: o, Verb: "call:" + m.Op, Reason: "NOT_GRANTED", Message: "you do not hold call:" + m.Op, Grantors: []string{w.Root.ID}, SmallestGrant: o + "=call:" + m.Op,
		}}, nil
	})
	rpc.Handle(s, "can", func(_ context.Context, _ rpc.Caller, req *solov1.CanRequest) (*solov1.CanResponse, error) {
		return &solov1.CanResponse{Allowed: req.GetRule() == "audit=read"}, nil
	})
	rpc.Handle(s, "grant", func(_ context.Context, c rpc.Caller, req *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
		w.note("capmgr.grant", c)
		return &solov1.GrantCapabilityResponse{Capability: &solov1.Capability{Id: req.GetPublicKey(), Parent: c.ID}}, nil
	})
	rpc.Handle(s, "auditor", func(_ context.Context, c rpc.Caller, _ *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, error) {
		w.note("capmgr.auditor", c)
		return &solov1.SubscribeAuditResponse{Consumer: c.ID}, nil
	})
	rpc.Handle(s, "revoke", func(_ context.Context, c rpc.Caller, req *solov1.RevokeCapabilityRequest) (*solov1.RevokeCapabilityResponse, error) {
		w.note("capmgr.revoke", c)
		if w.revoke != nil {
			return w.revoke(c.ID, req.GetId())
		}
		return &solov1.RevokeCapabilityResponse{RevokedCount: 1}, nil
	})
}

func (w *world) deployer(s *rpc.Server) {
	rpc.Handle(s, "deploy", func(_ context.Context, c rpc.Caller, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
		w.note("deployer.deploy", c)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deployed = req
		return &solov1.DeployResponse{Service: &solov1.Service{Name: req.GetManifest().GetName()}}, nil
	})
	rpc.Handle(s, "update", func(_ context.Context, c rpc.Caller, _ *solov1.UpdateRequest) (*solov1.UpdateResponse, error) {
		w.note("deployer.update", c)
		return &solov1.UpdateResponse{Rollout: &solov1.Rollout{Id: "r"}}, nil
	})
	rpc.Handle(s, "kill", func(_ context.Context, c rpc.Caller, req *solov1.KillRequest) (*solov1.KillResponse, error) {
		w.note("deployer.kill", c)
		return &solov1.KillResponse{Service: &solov1.Service{Name: req.GetService()}}, nil
	})
	rpc.Handle(s, "crashes", func(_ context.Context, c rpc.Caller, _ *solov1.CrashesRequest) (*solov1.CrashesResponse, error) {
		w.note("deployer.crashes", c)
		return &solov1.CrashesResponse{Crashes: []*solov1.Crash{{Id: "c"}}}, nil
	})
	rpc.HandleStream(s, "logs", func(_ context.Context, c rpc.Caller, _ *solov1.LogsRequest, send func(*solov1.LogsResponse) error) error {
		w.note("deployer.logs", c)
		return send(&solov1.LogsResponse{Record: &solov1.LogRecord{Line: "a line"}})
	})
	rpc.Handle(s, "upload", func(_ context.Context, c rpc.Caller, req *kernelv1.PutChunkRequest) (*kernelv1.PutChunkResponse, error) {
		w.note("deployer.upload", c)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.chunks = append(w.chunks, req)
		if w.held[req.GetSha256()] {
			return &kernelv1.PutChunkResponse{Stored: true, Existed: true, Size: 42}, nil
		}
		size := req.GetOffset() + uint64(len(req.GetData()))
		if req.GetLast() {
			w.held[req.GetSha256()] = true
		}
		return &kernelv1.PutChunkResponse{Stored: req.GetLast(), Size: size}, nil
	})
}

func (w *world) audit(s *rpc.Server) {
	rpc.HandleStream(s, "read", func(_ context.Context, c rpc.Caller, req *solov1.AuditRequest, send func(*solov1.AuditResponse) error) error {
		w.note("audit.read", c)
		return send(&solov1.AuditResponse{Sequence: req.GetAfterSequence() + 1})
	})
}

func (w *world) resmon(s *rpc.Server) {
	rpc.Handle(s, "usage", func(_ context.Context, c rpc.Caller, _ *solov1.UsageRequest) (*solov1.UsageResponse, error) {
		w.note("resmon.usage", c)
		return &solov1.UsageResponse{Rows: []*solov1.UsageRow{{Service: "acme/echo"}}}, nil
	})
}

// grant makes a holder that capmgr knows, too.
func (w *world) grant(t testing.TB, rules ...string) bustest.Handle {
	t.Helper()
	h := w.Grant(t, rules...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules[h.ID] = rules
	return h
}

// client is a client of the gateway with a handle.
func (w *world) client(t testing.TB, h bustest.Handle) *agent.Client {
	t.Helper()
	c, err := agent.Dial(t.Context(), agent.Options{Addr: w.addr, Handle: h.Seed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serve answers calls to a service on a connection of its own, as a runner does.
func (w *world) serve(t testing.TB, name string, answer func(op string, m *nats.Msg)) {
	t.Helper()
	of, err := subject.ParseService(name)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := w.Endow(t, name, 1)
	nc := w.Dial(t, key)
	if _, err := nc.QueueSubscribe(subject.CallServing(of), name, func(m *nats.Msg) {
		c, err := subject.ParseCall(m.Subject)
		if err != nil {
			return
		}
		answer(c.Op, m)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// echo answers with the payload, its instance and its revision.
func echo(op string, m *nats.Msg) {
	r := nats.NewMsg(m.Reply)
	r.Data = m.Data
	r.Header.Set(rpc.HeaderInstance, "i-1")
	r.Header.Set(rpc.HeaderRevision, "7")
	switch op {
	case "fail":
		rpc.ErrorReply(r, fault.New(codes.Aborted, fault.ReasonServiceError, "it did not work"))
	case "crash":
		rpc.ErrorReply(r, fault.New(codes.Internal, fault.ReasonInstanceCrashed, "it crashed"))
	case "trace":
		r.Data = []byte(m.Header.Get(rpc.HeaderTraceparent))
	}
	_ = m.RespondMsg(r) // a caller that is gone needs no answer
}
