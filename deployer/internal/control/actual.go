package control

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// placed names a placement on this node.
type placed struct {
	service  string
	revision uint64
}

// actual is what runs on this node, as its runners tell. Everything it hands out is a copy.
type actual struct {
	mu sync.Mutex
	m  map[placed]*nodev1.PlacementState // mu
}

func newActual() *actual { return &actual{m: map[placed]*nodev1.PlacementState{}} }

func namespaceOf(service string) string {
	ns, _, _ := strings.Cut(service, "/")
	return ns
}

// replace takes a runner's own account of all it holds, and returns the services that were or are
// there.
func (a *actual) replace(namespace string, states []*nodev1.PlacementState) (touched []string) {
	touched = a.drop(namespace)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range states {
		a.m[placed{s.GetService(), s.GetRevision()}] = proto.CloneOf(s)
		touched = append(touched, s.GetService())
	}
	slices.Sort(touched)
	return slices.Compact(touched)
}

// drop forgets everything of a namespace and returns the services that were there.
func (a *actual) drop(namespace string) (touched []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.m {
		if namespaceOf(k.service) == namespace {
			delete(a.m, k)
			touched = append(touched, k.service)
		}
	}
	return touched
}

// begin expects a placement with an epoch: events about it are taken from now on.
func (a *actual) begin(service string, revision, epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m[placed{service, revision}] = &nodev1.PlacementState{Service: service, Revision: revision, Epoch: epoch}
}

// placed takes the runner's answer to a placement: events that came before it know better.
func (a *actual) placed(s *nodev1.PlacementState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.m[placed{s.GetService(), s.GetRevision()}]
	if p == nil || p.GetEpoch() != s.GetEpoch() {
		return
	}
	for _, i := range s.GetInstances() {
		if !slices.ContainsFunc(p.Instances, func(x *solov1.Instance) bool { return x.GetId() == i.GetId() }) {
			p.Instances = append(p.Instances, proto.CloneOf(i))
		}
	}
}

// end forgets a placement.
func (a *actual) end(service string, revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.m, placed{service, revision})
}

// change takes an event about one instance. false means that nothing is known of its placement.
func (a *actual) change(ev *nodev1.InstanceChange) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.m[placed{ev.GetService(), ev.GetRevision()}]
	if p == nil {
		return false
	}
	if ev.GetPlacementFailed() {
		p.Failed, p.LastError = true, ev.GetReason()
	}
	if i := ev.GetInstance(); i.GetId() != "" {
		p.Instances = slices.DeleteFunc(p.Instances, func(x *solov1.Instance) bool { return x.GetId() == i.GetId() })
		if i.GetState() != solov1.InstanceState_INSTANCE_STATE_STOPPED {
			p.Instances = append(p.Instances, proto.CloneOf(i))
		}
	}
	return true
}

// find returns one placement, or nil.
func (a *actual) find(service string, revision uint64) *nodev1.PlacementState {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.m[placed{service, revision}]; p != nil {
		return proto.CloneOf(p)
	}
	return nil
}

// of returns the placements of a service.
func (a *actual) of(service string) (out []*nodev1.PlacementState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, p := range a.m {
		if k.service == service {
			out = append(out, proto.CloneOf(p))
		}
	}
	return out
}

// all returns every placement, sorted.
func (a *actual) all() []*nodev1.PlacementState {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*nodev1.PlacementState, 0, len(a.m))
	for _, p := range a.m {
		out = append(out, proto.CloneOf(p))
	}
	slices.SortFunc(out, func(x, y *nodev1.PlacementState) int {
		if c := strings.Compare(x.GetService(), y.GetService()); c != 0 {
			return c
		}
		return int(x.GetRevision()) - int(y.GetRevision())
	})
	return out
}

// occupied tells whether a namespace holds anything.
func (a *actual) occupied(namespace string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.m {
		if namespaceOf(k.service) == namespace {
			return true
		}
	}
	return false
}

// answers tells whether an instance of a placement is ready.
func answers(p *nodev1.PlacementState) bool {
	return slices.ContainsFunc(p.GetInstances(), func(i *solov1.Instance) bool { return i.GetState() == solov1.InstanceState_INSTANCE_STATE_READY })
}
