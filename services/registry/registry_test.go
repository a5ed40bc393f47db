package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// node is a registry on a bus, with a deployer that is this test.
type node struct {
	*bustest.World
	registry *bustest.Running
	deployer *daemon.Process
}

func start(t *testing.T) *node {
	t.Helper()
	w := bustest.Start(t)
	return &node{w, w.Run(t, registry.Command(), nil), w.Process(t, subject.Deployer)}
}

func (n *node) peer(t *testing.T, rules ...string) rpc.Peer {
	t.Helper()
	h := n.Grant(t, rules...)
	return rpc.Peer{Conn: n.Dial(t, h), ID: h.ID}
}

// ask makes an internal call as the deployer.
func (n *node) ask(t *testing.T, op string, req, resp proto.Message) error {
	t.Helper()
	return n.deployer.Peer.Call(within(t), subject.Registry, op, subject.Nothing(), req, resp)
}

func registration(name string, state solov1.ServiceState) *kernelv1.Registration {
	return &kernelv1.Registration{
		Name: name, LastRevision: 1, Revision: 1, DesiredRunning: true, State: state,
		Revisions: []*kernelv1.Revision{{
			Number: 1, CodeSha256: "c0de", DeployedBy: "UX",
			Manifest: &solov1.Manifest{Name: name, Operations: []*solov1.Operation{{Name: "get"}}, Grants: []string{"svc:other/x=call:get"}},
		}},
	}
}

func (n *node) put(t *testing.T, r *kernelv1.Registration, expected uint64, events ...*solov1.Event) uint64 {
	t.Helper()
	var resp kernelv1.PutRegistrationResponse
	if err := n.ask(t, "put", &kernelv1.PutRegistrationRequest{Registration: r, Expected: expected, Events: events}, &resp); err != nil {
		t.Fatal(err)
	}
	return resp.GetKvRevision()
}

func service(t *testing.T, name string) subject.Service {
	t.Helper()
	s, err := subject.ParseService(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func status(t *testing.T, p rpc.Peer, name string) (*solov1.Service, error) {
	t.Helper()
	var resp solov1.StatusResponse
	err := p.Call(within(t), subject.Registry, "status", service(t, name), &solov1.StatusRequest{Service: name}, &resp)
	return resp.GetService(), err
}

func mustStatus(t *testing.T, p rpc.Peer, name string) *solov1.Service {
	t.Helper()
	s, err := status(t, p, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != code || f.Reason != reason {
		t.Fatalf("error %v, want %s %s", err, code, reason)
	}
	return f
}

func TestRegistrationsByCompareAndSet(t *testing.T) {
	n := start(t)
	r := registration("acme/billing", solov1.ServiceState_SERVICE_STATE_PENDING)
	first := n.put(t, r, 0)
	if err := n.ask(t, "put", &kernelv1.PutRegistrationRequest{Registration: r}, &kernelv1.PutRegistrationResponse{}); err == nil {
		t.Error("created twice")
	} else if f := wantFault(t, err, codes.Aborted, fault.ReasonConflict); f.Metadata["kv_revision"] != fmt.Sprint(first) {
		t.Errorf("%+v", f)
	}
	r.State = solov1.ServiceState_SERVICE_STATE_RUNNING
	second := n.put(t, r, first)
	if second <= first {
		t.Errorf("revisions %d, then %d", first, second)
	}
	err := n.ask(t, "put", &kernelv1.PutRegistrationRequest{Registration: r, Expected: first}, &kernelv1.PutRegistrationResponse{})
	wantFault(t, err, codes.Aborted, fault.ReasonConflict)
	var got kernelv1.GetRegistrationResponse
	if err := n.ask(t, "get", &kernelv1.GetRegistrationRequest{Service: "acme/billing"}, &got); err != nil {
		t.Fatal(err)
	}
	if got.GetKvRevision() != second || !proto.Equal(got.GetRegistration(), r) {
		t.Errorf("got %v", &got)
	}

	del := &kernelv1.DeleteRegistrationRequest{Service: "acme/billing", Expected: first}
	wantFault(t, n.ask(t, "delete", del, &kernelv1.DeleteRegistrationResponse{}), codes.Aborted, fault.ReasonConflict)
	del.Expected = second
	for range 2 { // deleting what is gone is no error
		if err := n.ask(t, "delete", del, &kernelv1.DeleteRegistrationResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	err = n.ask(t, "get", &kernelv1.GetRegistrationRequest{Service: "acme/billing"}, &got)
	wantFault(t, err, codes.NotFound, fault.ReasonServiceNotFound)
	if again := n.put(t, r, 0); again <= second {
		t.Errorf("created anew at %d", again)
	}
}

func TestBadWritesAreRefused(t *testing.T) {
	n := start(t)
	ok := registration("acme/billing", solov1.ServiceState_SERVICE_STATE_RUNNING)
	huge := proto.CloneOf(ok)
	huge.LastError = strings.Repeat("x", 1<<20)
	many := proto.CloneOf(ok)
	for range 11 {
		many.Revisions = append(many.Revisions, ok.Revisions[0])
	}
	for what, c := range map[string]struct {
		req    *kernelv1.PutRegistrationRequest
		reason string
		field  string
	}{
		"no name":     {&kernelv1.PutRegistrationRequest{}, fault.ReasonInvalidArgument, "registration.name"},
		"bad name":    {&kernelv1.PutRegistrationRequest{Registration: &kernelv1.Registration{Name: "Nope"}}, fault.ReasonInvalidArgument, "registration.name"},
		"many":        {&kernelv1.PutRegistrationRequest{Registration: many}, fault.ReasonInvalidArgument, "registration.revisions"},
		"huge":        {&kernelv1.PutRegistrationRequest{Registration: huge}, fault.ReasonTooLarge, ""},
		"event type":  {&kernelv1.PutRegistrationRequest{Registration: ok, Events: []*solov1.Event{{Type: "a.b"}}}, fault.ReasonInvalidArgument, "events[0].type"},
		"event alien": {&kernelv1.PutRegistrationRequest{Registration: ok, Events: []*solov1.Event{{Type: "a", Service: "bob/x"}}}, fault.ReasonInvalidArgument, "events[0].service"},
		"event name":  {&kernelv1.PutRegistrationRequest{Registration: ok, Events: []*solov1.Event{{Type: "a", Service: "x"}}}, fault.ReasonInvalidArgument, "events[0].service"},
	} {
		f := wantFault(t, n.ask(t, "put", c.req, &kernelv1.PutRegistrationResponse{}), codes.InvalidArgument, c.reason)
		if c.field != "" && (len(f.Fields) != 1 || f.Fields[0].Path != c.field) {
			t.Errorf("%s: %+v", what, f)
		}
	}
	wantFault(t, n.ask(t, "get", &kernelv1.GetRegistrationRequest{Service: "x"}, &kernelv1.GetRegistrationResponse{}), codes.InvalidArgument, fault.ReasonInvalidArgument)
	wantFault(t, n.ask(t, "delete", &kernelv1.DeleteRegistrationRequest{Service: "x"}, &kernelv1.DeleteRegistrationResponse{}), codes.InvalidArgument, fault.ReasonInvalidArgument)
	wantFault(t, n.ask(t, "report", &kernelv1.ReportRequest{Node: "a.b"}, &kernelv1.ReportResponse{}), codes.InvalidArgument, fault.ReasonInvalidArgument)
	if _, err := status(t, n.peer(t, "svc:*/*=status"), "acme/billing"); !fault.Is(err, fault.ReasonServiceNotFound) {
		t.Errorf("a refused write left something: %v", err)
	}
	// Holders cannot write at all: the server itself refuses the subject.
	p := n.peer(t, "svc:*/*=*", "kernel=*")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.Call(ctx, subject.Registry, "put", subject.Nothing(), &kernelv1.PutRegistrationRequest{Registration: ok}, &kernelv1.PutRegistrationResponse{}); err == nil {
		t.Error("a holder wrote a registration")
	}
}

// Everything registered is there again after the registry, and then the connection to a new
// one, begins from nothing but the store.
func TestTruthSurvivesRestart(t *testing.T) {
	n := start(t)
	const count = 120
	revs := map[string]uint64{}
	for i := range count {
		name := fmt.Sprintf("ns%d/s%03d", i%3, i)
		revs[name] = n.put(t, registration(name, solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	}
	if err := n.ask(t, "delete", &kernelv1.DeleteRegistrationRequest{Service: "ns0/s000"}, &kernelv1.DeleteRegistrationResponse{}); err != nil {
		t.Fatal(err)
	}
	delete(revs, "ns0/s000")
	n.registry.Stop(t)
	n.registry = n.Run(t, registry.Command(), nil)
	seen := map[string]uint64{}
	for after, more := "", true; more; {
		var page kernelv1.AllRegistrationsResponse
		if err := n.ask(t, "all", &kernelv1.AllRegistrationsRequest{After: after}, &page); err != nil {
			t.Fatal(err)
		}
		for _, g := range page.GetRegistrations() {
			if g.GetRegistration().GetName() <= after {
				t.Fatalf("%s after %s", g.GetRegistration().GetName(), after)
			}
			after = g.GetRegistration().GetName()
			seen[after] = g.GetKvRevision()
		}
		more = page.GetMore()
	}
	if fmt.Sprint(seen) != fmt.Sprint(revs) {
		t.Errorf("after the restart %v, before %v", seen, revs)
	}
	for name, rev := range revs { // and the revisions are good for writing
		n.put(t, registration(name, solov1.ServiceState_SERVICE_STATE_STOPPED), rev)
		break
	}
}

func (n *node) report(t *testing.T, full bool, placements ...*nodev1.PlacementState) {
	t.Helper()
	req := &kernelv1.ReportRequest{Node: bustest.Node, Full: full, Placements: placements, Cpus: 2, MemoryBytes: 1 << 30, Version: "v"}
	if err := n.ask(t, "report", req, &kernelv1.ReportResponse{}); err != nil {
		t.Fatal(err)
	}
}

func placed(name string, states ...solov1.InstanceState) *nodev1.PlacementState {
	p := &nodev1.PlacementState{Service: name, Revision: 1, Epoch: 1}
	for i, s := range states {
		p.Instances = append(p.Instances, &solov1.Instance{Id: fmt.Sprintf("i%d", i), State: s})
	}
	return p
}

const (
	ready      = solov1.InstanceState_INSTANCE_STATE_READY
	restarting = solov1.InstanceState_INSTANCE_STATE_RESTARTING
)

func TestStatus(t *testing.T) {
	n := start(t)
	r := registration("acme/billing", solov1.ServiceState_SERVICE_STATE_RUNNING)
	r.Enforcement, r.LastError = []string{"memory: hard"}, "once"
	p := n.peer(t, "svc:acme/*=status")
	grant := n.GrantFrom(t, n.Root.ID, time.Hour, "svc:other/x=call:get")
	r.ServiceId = grant.ID
	rev := n.put(t, r, 0)
	n.report(t, true, placed("acme/billing", ready, ready), placed("acme/other", ready))

	s := mustStatus(t, p, "acme/billing")
	if s.GetEtag() != fmt.Sprint(rev) || s.GetTier() != "user" || s.GetRevision() != 1 || s.GetCodeSha256() != "c0de" || s.GetDeployedBy() != "UX" ||
		s.GetState() != solov1.ServiceState_SERVICE_STATE_RUNNING || s.GetLastError() != "once" || s.GetEnforcement()[0] != "memory: hard" {
		t.Errorf("%v", s)
	}
	if len(s.GetInstances()) != 2 || s.GetInstances()[0].GetNode() != bustest.Node || s.GetInstances()[0].GetRevision() != 1 {
		t.Errorf("instances %v", s.GetInstances())
	}
	g := s.GetGrants()
	if len(g) != 1 || g[0].GetRule() != "svc:other/x=call:get" || !g[0].GetLive() || g[0].GetCapabilityId() != grant.ID || g[0].GetExpiresAt() == nil {
		t.Errorf("grants %v", g)
	}
	n.Revoke(t, grant.ID)
	if g := mustStatus(t, p, "acme/billing").GetGrants(); len(g) != 1 || g[0].GetLive() {
		t.Errorf("grants after the revocation %v", g)
	}

	// What runs follows the reports.
	n.report(t, false, placed("acme/billing", restarting))
	if s := mustStatus(t, p, "acme/billing"); s.GetState() != solov1.ServiceState_SERVICE_STATE_STARTING || len(s.GetInstances()) != 1 {
		t.Errorf("%v", s)
	}
	failed := placed("acme/billing")
	failed.Failed, failed.LastError = true, "too many restarts"
	n.report(t, false, failed)
	if s := mustStatus(t, p, "acme/billing"); s.GetState() != solov1.ServiceState_SERVICE_STATE_FAILED || s.GetLastError() != "too many restarts" {
		t.Errorf("%v", s)
	}
	n.report(t, false, placed("acme/billing"))
	if s := mustStatus(t, p, "acme/billing"); len(s.GetInstances()) != 0 || s.GetState() != solov1.ServiceState_SERVICE_STATE_RUNNING {
		t.Errorf("%v", s)
	}
}

func TestStatusOfNoService(t *testing.T) {
	n := start(t)
	n.put(t, registration("acme/billing", solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	n.put(t, registration("bob/billing", solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	_, err := status(t, n.peer(t, "svc:acme/*=status"), "acme/biling")
	f := wantFault(t, err, codes.NotFound, fault.ReasonServiceNotFound)
	if f.Metadata["suggestion"] != "acme/billing" || !strings.Contains(f.Help, "acme/billing") {
		t.Errorf("%+v", f)
	}
	for rule, name := range map[string]string{
		"svc:acme/biling=status": "acme/biling", // billing is none of its business
		"svc:*/*=status":         "acme/wholly-else",
		"svc:bob/*=status":       "bob/xilxyzg",
	} {
		_, err := status(t, n.peer(t, rule), name)
		if f := wantFault(t, err, codes.NotFound, fault.ReasonServiceNotFound); f.Metadata["suggestion"] != "" {
			t.Errorf("%s: suggested %+v", rule, f)
		}
	}
	// The body may not name another service than the subject.
	p := n.peer(t, "svc:acme/*=status")
	err = p.Call(within(t), subject.Registry, "status", service(t, "acme/billing"), &solov1.StatusRequest{Service: "bob/billing"}, &solov1.StatusResponse{})
	wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument)
}

func TestSamplesAreMerged(t *testing.T) {
	n := start(t)
	resmon := n.Process(t, subject.Resmon)
	n.put(t, registration("acme/billing", solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	n.report(t, true, placed("acme/billing", ready))
	p := n.peer(t, "svc:acme/*=status")
	sample := &kernelv1.SampleAllResponse{Node: bustest.Node, Placements: []*nodev1.PlacementSample{{
		Service: "acme/billing", Revision: 1, MailboxDepth: 9, Instances: []*solov1.Instance{{Id: "i0", MemoryBytes: 77, CpuMs: 5, Restarts: 2}},
	}}}
	b, err := proto.Marshal(sample)
	if err != nil {
		t.Fatal(err)
	}
	for ctx := within(t); ; {
		for _, body := range [][]byte{b, []byte("\xff"), nil} { // and nonsense harms nobody
			if err := resmon.Conn.Publish(subject.Samples(bustest.Node), body); err != nil {
				t.Fatal(err)
			}
		}
		i := mustStatus(t, p, "acme/billing").GetInstances()[0]
		if i.GetMemoryBytes() == 77 {
			if i.GetCpuMs() != 5 || i.GetMailboxDepth() != 9 || i.GetRestarts() != 2 || i.GetState() != ready {
				t.Errorf("%v", i)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the sample never shows")
		}
	}
}

func TestList(t *testing.T) {
	n := start(t)
	for _, name := range []string{"a/one", "a/two", "b/one", "b/three", "c/one"} {
		n.put(t, registration(name, solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	}
	list := func(p rpc.Peer, of subject.Service, req *solov1.ListRequest) (names []string, err error) {
		req = proto.CloneOf(req)
		for {
			var resp solov1.ListResponse
			if err := p.Call(within(t), subject.Registry, "list", of, req, &resp); err != nil {
				return names, err
			}
			for _, s := range resp.GetServices() {
				names = append(names, s.GetName())
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return names, nil
			}
			if len(resp.GetServices()) == 0 {
				return names, errors.New("an empty page that is not the last")
			}
		}
	}
	all, b := n.peer(t, "svc:*/*=list"), n.peer(t, "svc:b/*=list")
	for _, c := range []struct {
		p    rpc.Peer
		of   subject.Service
		req  *solov1.ListRequest
		want string
	}{
		{all, subject.Nothing(), &solov1.ListRequest{}, "[a/one a/two b/one b/three c/one]"},
		{all, subject.Nothing(), &solov1.ListRequest{PageSize: 2}, "[a/one a/two b/one b/three c/one]"},
		{all, subject.Nothing(), &solov1.ListRequest{Namespace: "a"}, "[a/one a/two]"},
		{all, subject.Service{Namespace: "-", Name: "one"}, &solov1.ListRequest{PageSize: 1}, "[a/one b/one c/one]"},
		{b, subject.Service{Namespace: "b", Name: "-"}, &solov1.ListRequest{PageSize: 1}, "[b/one b/three]"},
		{b, subject.Service{Namespace: "b", Name: "one"}, &solov1.ListRequest{Namespace: "b"}, "[b/one]"},
		{all, subject.Service{Namespace: "x", Name: "-"}, &solov1.ListRequest{}, "[]"},
	} {
		if got, err := list(c.p, c.of, c.req); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s %v: %v %v, want %s", c.of, c.req, got, err, c.want)
		}
	}
	for field, req := range map[string]*solov1.ListRequest{"namespace": {Namespace: "a"}, "page_token": {PageToken: "?"}, "page_size": {PageSize: 5000}} {
		_, err := list(b, subject.Service{Namespace: "b", Name: "-"}, req)
		if f := wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument); f.Fields[0].Path != field {
			t.Errorf("%+v", f)
		}
	}
	_, err := list(all, subject.Nothing(), &solov1.ListRequest{Namespace: "NO"})
	wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument)
}

// A page is bounded in bytes as well as in services.
func TestListOfLargeServices(t *testing.T) {
	n := start(t)
	for i := range 5 {
		r := registration(fmt.Sprintf("a/s%d", i), solov1.ServiceState_SERVICE_STATE_RUNNING)
		r.LastError = strings.Repeat("x", 600<<10)
		n.put(t, r, 0)
	}
	p := n.peer(t, "svc:*/*=list")
	req, seen := &solov1.ListRequest{}, 0
	for pages := 0; pages < 10; pages++ {
		var resp solov1.ListResponse
		if err := p.Call(within(t), subject.Registry, "list", subject.Nothing(), req, &resp); err != nil {
			t.Fatal(err)
		}
		seen += len(resp.GetServices())
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if seen != 5 {
		t.Errorf("%d services", seen)
	}
	seen = 0
	for after, more := "", true; more; {
		var page kernelv1.AllRegistrationsResponse
		if err := n.ask(t, "all", &kernelv1.AllRegistrationsRequest{After: after}, &page); err != nil {
			t.Fatal(err)
		}
		for _, g := range page.GetRegistrations() {
			after = g.GetRegistration().GetName()
			seen++
		}
		more = page.GetMore()
	}
	if seen != 5 {
		t.Errorf("all: %d services", seen)
	}
}

func TestResolve(t *testing.T) {
	n := start(t)
	n.put(t, registration("acme/billing", solov1.ServiceState_SERVICE_STATE_RUNNING), 0)
	p := n.peer(t, "svc:acme/*=call:get")
	resolve := func(name string) (*kernelv1.ResolveResponse, error) {
		var resp kernelv1.ResolveResponse
		err := p.Call(within(t), subject.Registry, "resolve", service(t, name), &kernelv1.ResolveRequest{Service: name}, &resp)
		return &resp, err
	}
	r, err := resolve("acme/billing")
	if err != nil || !r.GetExists() || r.GetState() != solov1.ServiceState_SERVICE_STATE_RUNNING || r.GetOperations()[0].GetName() != "get" {
		t.Errorf("%v %v", r, err)
	}
	if r, err = resolve("acme/none"); err != nil || r.GetExists() {
		t.Errorf("%v %v", r, err)
	}
}

func TestNodes(t *testing.T) {
	n := start(t)
	p := n.peer(t, "kernel=nodes")
	nodes := func() *solov1.Node {
		var resp solov1.NodesResponse
		if err := p.Call(within(t), subject.Registry, "nodes", subject.Nothing(), &solov1.NodesRequest{}, &resp); err != nil {
			t.Fatal(err)
		}
		if len(resp.GetNodes()) != 1 {
			t.Fatalf("%v", &resp)
		}
		return resp.GetNodes()[0]
	}
	if x := nodes(); x.GetName() != bustest.Node || x.GetReady() {
		t.Errorf("before any report: %v", x)
	}
	n.report(t, true, placed("a/b", ready, ready))
	if x := nodes(); !x.GetReady() || x.GetCpus() != 2 || x.GetMemoryBytes() != 1<<30 || x.GetInstances() != 2 || x.GetVersion() != "v" || x.GetLastHeartbeat() == nil {
		t.Errorf("%v", x)
	}
}
