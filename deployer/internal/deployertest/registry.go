// Package deployertest surrounds a deployer under test with what it asks: a registry and a capability
// manager that answer real system calls on the real bus, keep their records in memory, and do nothing
// else; and with real helper binaries.
package deployertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// patience bounds what is awaited.
const patience = 30 * time.Second

// Registry answers for the registry.
type Registry struct {
	mu      sync.Mutex
	m       map[string]*kernelv1.GetRegistrationResponse // mu
	rev     uint64                                       // mu
	events  []*solov1.Event                              // mu
	report  *kernelv1.ReportRequest                      // mu; the newest full one
	changed chan struct{}                                // mu; closed and replaced at every change
}

// StartRegistry serves until the test ends.
func StartRegistry(t testing.TB, w *bustest.World) *Registry {
	t.Helper()
	r := &Registry{m: map[string]*kernelv1.GetRegistrationResponse{}, changed: make(chan struct{})}
	serve(t, w.Process(t, subject.Registry), func(s *rpc.Server) {
		rpc.Handle(s, "put", r.put)
		rpc.Handle(s, "get", r.get)
		rpc.Handle(s, "all", r.all)
		rpc.Handle(s, "delete", r.delete)
		rpc.Handle(s, "report", r.take)
	})
	return r
}

func serve(t testing.TB, p *daemon.Process, add func(*rpc.Server)) {
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

func (r *Registry) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Registry) put(_ context.Context, _ rpc.Caller, req *kernelv1.PutRegistrationRequest) (*kernelv1.PutRegistrationResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := req.GetRegistration().GetName()
	if have := r.m[name].GetKvRevision(); have != req.GetExpected() {
		return nil, fault.New(codes.Aborted, fault.ReasonConflict, "%s is at %d, not %d", name, have, req.GetExpected())
	}
	r.rev++
	r.m[name] = &kernelv1.GetRegistrationResponse{Registration: proto.CloneOf(req.GetRegistration()), KvRevision: r.rev}
	r.events = append(r.events, req.GetEvents()...)
	r.change()
	return &kernelv1.PutRegistrationResponse{KvRevision: r.rev}, nil
}

func (r *Registry) get(_ context.Context, _ rpc.Caller, req *kernelv1.GetRegistrationRequest) (*kernelv1.GetRegistrationResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.m[req.GetService()]
	if e == nil {
		return nil, fault.New(codes.NotFound, fault.ReasonServiceNotFound, "no %s", req.GetService())
	}
	return proto.CloneOf(e), nil
}

func (r *Registry) all(_ context.Context, _ rpc.Caller, req *kernelv1.AllRegistrationsRequest) (*kernelv1.AllRegistrationsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &kernelv1.AllRegistrationsResponse{}
	for name, e := range r.m {
		if name > req.GetAfter() {
			resp.Registrations = append(resp.Registrations, proto.CloneOf(e))
		}
	}
	slices.SortFunc(resp.Registrations, func(a, b *kernelv1.GetRegistrationResponse) int {
		return strings.Compare(a.GetRegistration().GetName(), b.GetRegistration().GetName())
	})
	if len(resp.Registrations) > 2 { // small pages, so that they are paged through
		resp.Registrations, resp.More = resp.Registrations[:2], true
	}
	return resp, nil
}

func (r *Registry) delete(_ context.Context, _ rpc.Caller, req *kernelv1.DeleteRegistrationRequest) (*kernelv1.DeleteRegistrationResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, req.GetService())
	r.change()
	return &kernelv1.DeleteRegistrationResponse{}, nil
}

func (r *Registry) take(_ context.Context, _ rpc.Caller, req *kernelv1.ReportRequest) (*kernelv1.ReportResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, req.GetEvents()...)
	if req.GetFull() {
		r.report = req
	}
	r.change()
	return &kernelv1.ReportResponse{}, nil
}

// Get returns a copy of a registration, or nil.
func (r *Registry) Get(name string) *kernelv1.Registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.m[name]; e != nil {
		return proto.CloneOf(e.GetRegistration())
	}
	return nil
}

// Edit changes a registration as another writer would.
func (r *Registry) Edit(name string, f func(*kernelv1.Registration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := proto.CloneOf(r.m[name])
	f(e.Registration)
	r.rev++
	e.KvRevision = r.rev
	r.m[name] = e
	r.change()
}

// Await waits until cond holds for a registration, nil when there is none.
func (r *Registry) Await(t testing.TB, name string, cond func(*kernelv1.Registration) bool) *kernelv1.Registration {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		r.mu.Lock()
		var reg *kernelv1.Registration
		if e := r.m[name]; e != nil {
			reg = proto.CloneOf(e.GetRegistration())
		}
		changed := r.changed
		r.mu.Unlock()
		if cond(reg) {
			return reg
		}
		select {
		case <-changed:
		case <-limit.Done():
			t.Fatalf("%s did not become what it should: %v", name, reg)
		}
	}
}

// AwaitEvent waits for an event of a type about a service.
func (r *Registry) AwaitEvent(t testing.TB, name, kind string) *solov1.Event {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		r.mu.Lock()
		changed := r.changed
		for _, e := range r.events {
			if e.GetService() == name && e.GetType() == kind {
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-changed:
		case <-limit.Done():
			t.Fatalf("no event %s of %s", kind, name)
		}
	}
}

// AwaitReport waits for a full report that satisfies cond.
func (r *Registry) AwaitReport(t testing.TB, cond func(*kernelv1.ReportRequest) bool) {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		r.mu.Lock()
		report, changed := r.report, r.changed
		r.mu.Unlock()
		if report != nil && cond(report) {
			return
		}
		select {
		case <-changed:
		case <-limit.Done():
			t.Fatalf("no such report: %v", report)
		}
	}
}
