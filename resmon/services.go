package resmon

import (
	"context"
	"sync"
	"time"

	"github.com/solo-os/solo/bus/rpc"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/resmon/internal/limits"
)

const (
	// refreshEvery is when registrations are read again although nothing told of a change;
	// refreshLeast is how far apart two readings are at least.
	refreshEvery = 15 * time.Second
	refreshLeast = time.Second
)

// services is what the registry says about limits and states, as last read. It is read again
// when an event told of a change, when a sample holds a revision not seen before, and from
// time to time.
type services struct {
	peer rpc.Peer

	mu     sync.RWMutex
	dirty  bool                           // mu; something has changed since the last reading
	read   time.Time                      // mu; when it was last tried
	limits map[revision]limits.Bounds     // mu
	count  map[solov1.ServiceState]uint64 // mu
}

type revision struct {
	service string
	number  uint64
}

func newServices(peer rpc.Peer) *services {
	return &services{peer: peer, dirty: true, limits: map[revision]limits.Bounds{}, count: map[solov1.ServiceState]uint64{}}
}

// changed says that what was read is not current any more.
func (s *services) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
}

func (s *services) bounds(service string, number uint64) (limits.Bounds, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.limits[revision{service, number}]
	return b, ok
}

// states counts services by state.
func (s *services) states() map[solov1.ServiceState]uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// refresh reads the registrations again when that is due.
func (s *services) refresh(ctx context.Context, now time.Time, placements []*nodev1.PlacementSample) error {
	s.mu.Lock()
	due := s.dirty || now.Sub(s.read) >= refreshEvery
	for _, p := range placements {
		if due {
			break
		}
		_, known := s.limits[revision{p.GetService(), p.GetRevision()}]
		due = !known
	}
	if !due || now.Sub(s.read) < refreshLeast {
		s.mu.Unlock()
		return nil
	}
	s.read, s.dirty = now, false
	s.mu.Unlock()
	bounds, count := map[revision]limits.Bounds{}, map[solov1.ServiceState]uint64{}
	for after, more := "", true; more; {
		var page kernelv1.AllRegistrationsResponse
		if err := s.peer.Call(ctx, subject.Registry, "all", subject.Nothing(), &kernelv1.AllRegistrationsRequest{After: after}, &page); err != nil {
			s.changed()
			return err
		}
		for _, g := range page.GetRegistrations() {
			reg := g.GetRegistration()
			after = reg.GetName()
			count[reg.GetState()]++
			for _, v := range reg.GetRevisions() {
				bounds[revision{after, v.GetNumber()}] = limits.BoundsOf(v.GetManifest().GetLimits())
			}
		}
		more = page.GetMore()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits, s.count = bounds, count
	return nil
}
