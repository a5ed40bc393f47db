package resmon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/resmon"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// node is resmon on a bus; the deployer and the registry it talks to are this test.
type node struct {
	*bustest.World
	resmon             *bustest.Running
	deployer, registry *daemon.Process
	enforced           chan *kernelv1.EnforceRequest

	mu         sync.Mutex
	placements []*nodev1.PlacementSample           // mu
	registered []*kernelv1.GetRegistrationResponse // mu
	refuse     int                                 // mu; so many decisions fail
	asked      int                                 // mu; samples so far
}

func start(t *testing.T) *node {
	t.Helper()
	n := &node{World: bustest.Start(t), enforced: make(chan *kernelv1.EnforceRequest, 64)}
	n.deployer, n.registry = n.Process(t, subject.Deployer), n.Process(t, subject.Registry)
	serve(t, n.deployer, func(s *rpc.Server) {
		rpc.Handle(s, "sample", n.sample)
		rpc.Handle(s, "enforce", n.enforce)
	})
	serve(t, n.registry, func(s *rpc.Server) { rpc.Handle(s, "all", n.all) })
	n.resmon = n.Run(t, resmon.Command(), nil)
	return n
}

func serve(t *testing.T, p *daemon.Process, add func(*rpc.Server)) {
	t.Helper()
	s, err := p.Server()
	if err != nil {
		t.Fatal(err)
	}
	add(s)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
}

func (n *node) sample(context.Context, rpc.Caller, *kernelv1.SampleAllRequest) (*kernelv1.SampleAllResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	for _, p := range n.placements { // each second some more work was done
		p.Calls, p.Errors, p.LatencyUs = p.Calls+10, p.Errors+1, p.LatencyUs+5000
		for _, i := range p.GetInstances() {
			i.CpuMs += 100
		}
	}
	r := &kernelv1.SampleAllResponse{Node: bustest.Node, HelperMemoryBytes: 4096}
	for _, p := range n.placements {
		r.Placements = append(r.Placements, proto.CloneOf(p))
	}
	return r, nil
}

func (n *node) enforce(_ context.Context, _ rpc.Caller, req *kernelv1.EnforceRequest) (*kernelv1.EnforceResponse, error) {
	n.enforced <- proto.CloneOf(req)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse > 0 {
		n.refuse--
		return nil, fault.Unavailable(time.Second, "not now")
	}
	return &kernelv1.EnforceResponse{}, nil
}

func (n *node) all(_ context.Context, _ rpc.Caller, req *kernelv1.AllRegistrationsRequest) (*kernelv1.AllRegistrationsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, g := range n.registered { // one a page
		if g.GetRegistration().GetName() > req.GetAfter() {
			return &kernelv1.AllRegistrationsResponse{Registrations: []*kernelv1.GetRegistrationResponse{g}, More: i+1 < len(n.registered)}, nil
		}
	}
	return &kernelv1.AllRegistrationsResponse{}, nil
}

// deploy makes a service with one instance that the node then measures.
func (n *node) deploy(name string, memory uint64, l *solov1.Limits) *nodev1.PlacementSample {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.registered = append(n.registered, &kernelv1.GetRegistrationResponse{KvRevision: 1, Registration: &kernelv1.Registration{
		Name: name, Revision: 1, State: solov1.ServiceState_SERVICE_STATE_RUNNING,
		Revisions: []*kernelv1.Revision{{Number: 1, Manifest: &solov1.Manifest{Name: name, Limits: l}}},
	}})
	slices.SortFunc(n.registered, func(a, b *kernelv1.GetRegistrationResponse) int {
		return strings.Compare(a.GetRegistration().GetName(), b.GetRegistration().GetName())
	})
	p := &nodev1.PlacementSample{Service: name, Revision: 1, Instances: []*solov1.Instance{{Id: "i0", MemoryBytes: memory}}}
	n.placements = append(n.placements, p)
	return p
}

func (n *node) peer(t *testing.T, rules ...string) rpc.Peer {
	t.Helper()
	h := n.Grant(t, rules...)
	return rpc.Peer{Conn: n.Dial(t, h), ID: h.ID}
}

func wantFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != code || f.Reason != reason {
		t.Fatalf("error %v, want %s %s", err, code, reason)
	}
	return f
}

// until asks again and again, for the node is measured once a second.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never comes: %s", what)
		}
	}
}

func usage(t *testing.T, p rpc.Peer, of subject.Service, req *solov1.UsageRequest) (*solov1.UsageResponse, error) {
	t.Helper()
	var resp solov1.UsageResponse
	err := p.Call(within(t), subject.Resmon, "usage", of, req, &resp)
	return &resp, err
}

func TestUsage(t *testing.T) {
	n := start(t)
	n.deploy("acme/billing", 1000, nil)
	n.deploy("acme/ledger", 3000, nil)
	n.deploy("bob/x", 1, nil)
	kernel, acme := n.peer(t, "kernel=usage"), n.peer(t, "svc:acme/*=status")
	of := subject.Service{Namespace: "acme", Name: "-"}
	var rows []*solov1.UsageRow
	until(t, "usage over two seconds", func() bool {
		resp, err := usage(t, acme, of, &solov1.UsageRequest{Service: "acme/*"})
		if err != nil {
			t.Fatal(err)
		}
		rows = resp.GetRows()
		return len(rows) == 2 && rows[0].GetCalls() >= 20
	})
	b := rows[0]
	if b.GetService() != "acme/billing" || b.GetCpuMs() != b.GetCalls()*10 || b.GetErrors() != b.GetCalls()/10 || b.GetPeakMemoryBytes() != 1000 || b.GetMemoryByteSeconds() < 1000 {
		t.Errorf("%v", b)
	}
	for service, want := range map[string]int{"": 3, "*/*": 3, "acme/*": 2, "bob/x": 1, "bob/none": 0} {
		if resp, err := usage(t, kernel, subject.Nothing(), &solov1.UsageRequest{Service: service}); err != nil || len(resp.GetRows()) != want {
			t.Errorf("%q: %v %v", service, resp, err)
		}
	}
	future := timestamppb.New(time.Now().Add(time.Hour))
	if resp, err := usage(t, kernel, subject.Nothing(), &solov1.UsageRequest{From: future, To: future}); err != nil || len(resp.GetRows()) != 0 {
		t.Errorf("the future: %v %v", resp, err)
	}
	for field, req := range map[string]*solov1.UsageRequest{
		"service": {Service: "bob/x"}, "to": {Service: "acme/*", From: future, To: timestamppb.Now()},
		"from": {Service: "acme/*", From: &timestamppb.Timestamp{Nanos: -1}},
	} {
		_, err := usage(t, acme, of, req)
		if f := wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument); f.Fields[0].Path != field {
			t.Errorf("%+v", f)
		}
	}
	_, err := usage(t, kernel, subject.Nothing(), &solov1.UsageRequest{CapabilityId: "U"})
	wantFault(t, err, codes.Unimplemented, fault.ReasonUnimplemented)
}

func TestLimitsAreEnforced(t *testing.T) {
	n := start(t)
	n.refuse = 1
	n.deploy("acme/small", 10, &solov1.Limits{MemoryBytes: 1 << 20})
	n.deploy("acme/hog", 2<<20, &solov1.Limits{MemoryBytes: 1 << 20})
	next := func() *kernelv1.EnforceRequest {
		select {
		case r := <-n.enforced:
			return r
		case <-time.After(patience):
			t.Fatal("no decision")
			return nil
		}
	}
	for range 2 { // what failed is decided again
		r := next()
		if r.GetService() != "acme/hog" || r.GetInstance() != "i0" || r.GetLimit() != "memory" || r.GetAction() != solov1.LimitAction_LIMIT_ACTION_KILL ||
			r.GetValue() != 2<<20 || r.GetBound() != 1<<20 {
			t.Errorf("%v", r)
		}
	}
	// A service that comes later is judged by its own limits, at once.
	p := n.deploy("acme/later", 10, &solov1.Limits{Mailbox: 5, Actions: &solov1.LimitActions{Mailbox: solov1.LimitAction_LIMIT_ACTION_WARN}})
	n.mu.Lock()
	p.MailboxDepth = 6
	n.mu.Unlock()
	if r := next(); r.GetService() != "acme/later" || r.GetLimit() != "mailbox" || r.GetAction() != solov1.LimitAction_LIMIT_ACTION_WARN || r.GetValue() != 6 {
		t.Errorf("%v", r)
	}
	families := n.metrics(t)
	for _, labels := range []string{"action=kill,component=resmon,limit=memory,mark=hard", "action=warn,component=resmon,limit=mailbox,mark=hard", "action=none,component=resmon,limit=memory,mark=soft"} {
		if v := value(families["solo_limit_marks_total"], labels); v < 1 {
			t.Errorf("solo_limit_marks_total{%s} is %v", labels, v)
		}
	}
	if len(n.enforced) != 0 {
		t.Errorf("decided too often: %v", <-n.enforced)
	}
}

func TestSamplesArePassedOn(t *testing.T) {
	n := start(t)
	n.deploy("acme/billing", 1000, nil)
	got := make(chan *kernelv1.SampleAllResponse, 64)
	sub, err := n.registry.Conn.Subscribe(subject.Samples("*"), func(m *nats.Msg) {
		s := &kernelv1.SampleAllResponse{}
		if err := proto.Unmarshal(m.Data, s); err != nil {
			t.Error(err)
		}
		select {
		case got <- s:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	until(t, "a sample", func() bool {
		select {
		case s := <-got:
			return s.GetNode() == bustest.Node && len(s.GetPlacements()) == 1 && s.GetPlacements()[0].GetInstances()[0].GetMemoryBytes() == 1000
		default:
			return false
		}
	})
}

func (n *node) get(t *testing.T, path string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://"+n.resmon.Addresses["metrics"]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (n *node) metrics(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	code, b := n.get(t, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, b)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	f, err := p.TextToMetricFamilies(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("not a valid exposition: %v", err)
	}
	return f
}

// value is a gauge or counter with exactly the labels, -1 when it is not there.
func value(f *dto.MetricFamily, labels string) float64 {
	for _, m := range f.GetMetric() {
		if labelsOf(m) == labels {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

func labelsOf(m *dto.Metric) string {
	var s []string
	for _, l := range m.GetLabel() {
		s = append(s, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(s, ",")
}

func TestMetricsOfTheNode(t *testing.T) {
	n := start(t)
	// A component that the node knows and that does not answer.
	n.Boot(t, subject.Audit, nil)
	n.deploy("acme/billing", 1000, nil)
	n.deploy("acme/ledger", 2000, nil)
	var f map[string]*dto.MetricFamily
	until(t, "the services", func() bool {
		f = n.metrics(t)
		return value(f["solo_service_calls_total"], "component=resmon,service=acme/billing") >= 10 && value(f["solo_active_services"], "component=resmon,state=running") == 2
	})
	for _, c := range []struct {
		name, labels string
		want         float64
	}{
		{"solo_component_up", "component=audit", 0},
		{"solo_component_up", "component=deployer", 1},
		{"solo_component_up", "component=registry", 1},
		{"solo_component_up", "component=resmon", 1},
		{"solo_active_services", "component=resmon,state=failed", 0},
		{"solo_service_memory_current_bytes", "component=resmon,service=acme/billing", 1000},
		{"solo_service_memory_current_bytes", "component=resmon,service=acme/ledger", 2000},
		{"solo_service_restarts_total", "component=resmon,service=acme/ledger", 0},
		{"solo_service_mailbox_depth", "component=resmon,service=acme/ledger", 0},
		{"solo_helper_memory_bytes", "component=resmon", 4096},
	} {
		if got := value(f[c.name], c.labels); got != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for _, name := range []string{"solo_service_errors_total", "solo_service_latency_seconds_total", "solo_service_cpu_seconds_total"} {
		if got := value(f[name], "component=resmon,service=acme/billing"); got <= 0 {
			t.Errorf("%s is %v", name, got)
		}
	}
	for _, c := range []string{"deployer", "registry", "resmon"} {
		if value(f["go_goroutines"], "component="+c) <= 0 {
			t.Errorf("there are no goroutines of %s", c)
		}
	}
	h := f["solo_service_memory_bytes"]
	if h.GetType() != dto.MetricType_HISTOGRAM || h.GetMetric()[0].GetHistogram().GetSampleCount() < 2 {
		t.Errorf("%v", h)
	}
}

func TestHealthOfTheNode(t *testing.T) {
	n := start(t)
	type report struct {
		OK         bool
		Components []struct {
			Component string
			OK        bool
			Message   string
		}
	}
	ask := func(path string) (int, report) {
		code, b := n.get(t, path)
		var r report
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		return code, r
	}
	if code, r := ask("/healthz"); code != http.StatusOK || !r.OK || len(r.Components) < 3 {
		t.Errorf("%d %+v", code, r)
	}
	if code, r := ask("/readyz"); code != http.StatusServiceUnavailable || r.OK {
		t.Errorf("ready with half of the components: %d %+v", code, r)
	}
	for _, c := range []string{subject.Audit, subject.Capmgr, subject.Gateway} {
		n.Process(t, c)
	}
	until(t, "all are there", func() bool { code, r := ask("/readyz"); return code == http.StatusOK && r.OK })
	n.deployer.SetHealth(func(context.Context) error { return errors.New("its disk is full") })
	code, r := ask("/healthz")
	if code != http.StatusServiceUnavailable || r.OK {
		t.Errorf("%d %+v", code, r)
	}
	for _, c := range r.Components {
		if (c.Component == subject.Deployer) == c.OK || c.Component == subject.Deployer && c.Message != "its disk is full" {
			t.Errorf("%+v", c)
		}
	}
	if code, _ := n.get(t, "/"); code != http.StatusNotFound {
		t.Errorf("/ is %d", code)
	}
}

// The node goes on being measured after its deployer was away.
func TestDeployerComesAndGoes(t *testing.T) {
	n := &node{World: bustest.Start(t), enforced: make(chan *kernelv1.EnforceRequest, 64)}
	n.resmon = n.Run(t, resmon.Command(), nil)
	until(t, "a failed measurement", func() bool { return value(n.metrics(t)["solo_sample_failures_total"], "component=resmon") > 0 })
	n.deployer, n.registry = n.Process(t, subject.Deployer), n.Process(t, subject.Registry)
	n.deploy("acme/billing", 1000, nil)
	serve(t, n.deployer, func(s *rpc.Server) { rpc.Handle(s, "sample", n.sample) })
	until(t, "a measurement", func() bool {
		return value(n.metrics(t)["solo_service_memory_current_bytes"], "component=resmon,service=acme/billing") == 1000
	})
}

func TestAddressesOffLoopbackAreRefused(t *testing.T) {
	w := bustest.Start(t)
	for addr, part := range map[string]string{"0.0.0.0:0": "SOLO_METRICS_PLAINTEXT", ":0": "SOLO_METRICS_PLAINTEXT", "nonsense": "host:port", "127.0.0.1:1:1": "host:port"} {
		p, err := daemon.Connect(t.Context(), w.Boot(t, subject.Resmon, map[string]string{"metrics": addr}), w.Log, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := resmon.Command().Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", addr, err)
		}
		p.Close()
	}
}

func TestAddressOffLoopbackByName(t *testing.T) {
	t.Setenv("SOLO_METRICS_PLAINTEXT", "true")
	c := resmon.Command()
	var out bytes.Buffer
	if code := daemon.Main(t.Context(), c, []string{"--version"}, strings.NewReader(""), &out, &out); code != 0 { // reads the flags
		t.Fatal(out.String())
	}
	w := bustest.Start(t)
	r := w.Run(t, c, map[string]string{"metrics": "0.0.0.0:0"})
	if r.Addresses["metrics"] == "" {
		t.Error("no address")
	}
}

func TestMetricsAreNotLabelledWithoutBound(t *testing.T) {
	n := start(t)
	const more = 5
	n.mu.Lock()
	for i := range resmon.MaxLabelled + more {
		n.placements = append(n.placements, &nodev1.PlacementSample{
			Service: fmt.Sprintf("many/s%04d", i), Revision: 1, Instances: []*solov1.Instance{{Id: "i", MemoryBytes: 1}},
		})
	}
	n.mu.Unlock()
	until(t, "all services", func() bool {
		m := n.metrics(t)["solo_service_memory_current_bytes"]
		return len(m.GetMetric()) == resmon.MaxLabelled+1 && value(m, "component=resmon,service=other") == more
	})
}
