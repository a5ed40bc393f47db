// Package meter holds the calls to services to the budgets of calls a second. Every call of a node
// passes the kernel's door, so one bucket for each budget is enough, whoever below it makes the call:
// an agent, the gateway for one, or a service that calls out.
//
// What a budget has passed on to budgets below it, it has no more. Buckets are made on demand and
// forgotten when they are full again. Meter.mu comes before the table's lock.
package meter

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
)

const (
	// lookEvery is how soon a bucket learns that its budget has passed something on or got it back.
	lookEvery = time.Second
	// sweepAt is how many buckets there are before those that are full are forgotten.
	sweepAt = 1024
)

// Meter is safe for concurrent use.
type Meter struct {
	table *gate.Table

	mu sync.Mutex
	m  map[string]*bucket // mu; by the capability that has the budget
}

type bucket struct {
	limit  *rate.Limiter
	looked time.Time
}

// New reads budgets from a table.
func New(t *gate.Table) *Meter { return &Meter{table: t, m: map[string]*bucket{}} }

// Admit takes one call of a holder out of the budget that it draws on, or says when to try again. A
// holder without such a budget above it is always admitted.
func (m *Meter) Admit(id string) error {
	pool, perSecond, bounded := m.table.CallBudget(id)
	if !bounded {
		return nil
	}
	if perSecond == 0 {
		return fault.New(codes.ResourceExhausted, fault.ReasonBudget, "capability %s has passed on all of its calls a second", pool).Final().
			With("holder", id).With("object", pool).With("budget", "calls_per_second").
			Next("call with a handle that it was passed on to, or revoke one of those")
	}
	r := m.bucket(pool, perSecond).Reserve()
	wait := r.Delay()
	if wait <= 0 {
		return nil
	}
	r.Cancel()
	return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "the budget of capability %s is %d calls a second", pool, perSecond).Retry(wait).
		With("holder", id).With("object", pool).With("budget", "calls_per_second").
		Next("call less often, or ask whoever granted %s for a larger budget", pool)
}

func (m *Meter) bucket(pool string, perSecond uint64) *rate.Limiter {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.m[pool]
	if b == nil {
		if len(m.m) >= sweepAt {
			m.sweep()
		}
		b = &bucket{limit: rate.NewLimiter(rate.Limit(perSecond), int(perSecond)), looked: now}
		m.m[pool] = b
	}
	if now.Sub(b.looked) >= lookEvery {
		b.looked = now
		if l := rate.Limit(perSecond); b.limit.Limit() != l {
			b.limit.SetLimit(l)
			b.limit.SetBurst(int(perSecond))
		}
	}
	return b.limit
}

// sweep forgets buckets that would be made full again. mu is held.
func (m *Meter) sweep() {
	for pool, b := range m.m {
		if b.limit.Tokens() >= float64(b.limit.Burst()) {
			delete(m.m, pool)
		}
	}
}

// Len is how many buckets there are.
func (m *Meter) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.m)
}
