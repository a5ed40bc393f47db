package ledger

import (
	"maps"
	"sync"

	"github.com/solo-os/solo/capmgr/internal/budget"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// charges is what services take out of budgets, by service. Its lock is a leaf.
type charges struct {
	mu sync.RWMutex
	m  map[string]budget.Charge // mu
}

func (c *charges) set(ev *kernelv1.CapCharged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ev.GetHolder() == "" {
		delete(c.m, ev.GetService())
		return
	}
	c.m[ev.GetService()] = budget.Charge{Service: ev.GetService(), Holder: ev.GetHolder(), MemoryBytes: ev.GetMemoryBytes()}
}

// Charge is what a service takes out of budgets; the zero value for one that takes nothing.
func (s *State) Charge(service string) budget.Charge {
	s.charges.mu.RLock()
	defer s.charges.mu.RUnlock()
	return s.charges.m[service]
}

// Budgets reads what is left of every budget, as of now.
func (s *State) Budgets() budget.Tree {
	return budget.Tree{Table: s.Table, Charges: func(yield func(budget.Charge) bool) {
		s.charges.mu.RLock()
		defer s.charges.mu.RUnlock()
		for c := range maps.Values(s.charges.m) {
			if !yield(c) {
				return
			}
		}
	}}
}
