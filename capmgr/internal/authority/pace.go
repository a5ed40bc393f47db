package authority

import (
	"sync"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
)

const (
	// grantsPerSecond and grantsAtOnce bound the grants of all that descend from one grant of the root:
	// every gate of every node keeps each record in memory, and the chain keeps it for ever.
	grantsPerSecond = 50
	grantsAtOnce    = 1000
	// paceSweep is how many families are counted before those with all their grants left are forgotten.
	paceSweep = 1024
)

// pace bounds how fast families of holders grant. The root is not held back.
type pace struct {
	mu sync.Mutex
	m  map[string]*rate.Limiter // mu; by family
}

func newPace() *pace { return &pace{m: map[string]*rate.Limiter{}} }

// take counts one grant of a holder, or says when to try again.
func (p *pace) take(t *gate.Table, holder string) error {
	v, ok := t.Get(holder)
	if ok && v.Record.GetParent() == "" {
		return nil
	}
	family := t.Family(holder)
	p.mu.Lock()
	l := p.m[family]
	if l == nil {
		if len(p.m) >= paceSweep {
			for k, l := range p.m {
				if l.Tokens() >= grantsAtOnce {
					delete(p.m, k)
				}
			}
		}
		l = rate.NewLimiter(grantsPerSecond, grantsAtOnce)
		p.m[family] = l
	}
	p.mu.Unlock()
	r := l.ReserveN(time.Now(), 1)
	if wait := r.Delay(); wait > 0 {
		r.Cancel()
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%s and what descends from it grant faster than %d a second", family, grantsPerSecond).
			Retry(wait).With("holder", holder).With("object", family)
	}
	return nil
}
