// Package budget decides what is left of the budgets in a tree of capabilities.
//
// A capability with a budget in some dimension is a pool. What it holds is taken out of the nearest
// pool above it, and what a service takes is taken out of the nearest live pool from the capability
// that deployed it upward. So everything below a pool together stays within it, however it is passed
// on, and what a dead capability held is the pool's above again, less what its services still take.
//
// Nothing is kept: what is left is counted from the records each time, which costs a walk over the
// pool's live capabilities and all services.
package budget

import (
	"iter"
	"time"

	"github.com/solo-os/solo/bus/gate"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Dimension is one field of a Budget that is taken out of what is above.
type Dimension uint8

// The dimensions. A lifetime is not among them: it bounds, and is not used up.
const (
	Services Dimension = iota
	Memory
	CPU
	Calls
)

// Dimensions lists all of them.
func Dimensions() []Dimension { return []Dimension{Services, Memory, CPU, Calls} }

// Field is the dimension's name in a Budget.
func (d Dimension) Field() string {
	return [...]string{"services", "memory_bytes", "cpu_millis", "calls_per_second"}[d]
}

// Of reads the dimension of a budget; 0 sets no bound.
func (d Dimension) Of(b *solov1.Budget) uint64 {
	switch d {
	case Services:
		return uint64(b.GetServices())
	case Memory:
		return b.GetMemoryBytes()
	case CPU:
		return uint64(b.GetCpuMillis())
	}
	return uint64(b.GetCallsPerSecond())
}

// set writes the dimension of a budget.
func (d Dimension) set(b *solov1.Budget, n uint64) {
	switch d {
	case Services:
		b.Services = uint32(n)
	case Memory:
		b.MemoryBytes = n
	case CPU:
		b.CpuMillis = uint32(n)
	case Calls:
		b.CallsPerSecond = uint32(n)
	}
}

// Charge is what one service takes.
type Charge struct {
	Service string
	// Holder is the capability that deployed it; it may be dead.
	Holder      string
	MemoryBytes uint64
}

func (c Charge) of(d Dimension) uint64 {
	switch d {
	case Services:
		return 1
	case Memory:
		return c.MemoryBytes
	}
	return 0
}

// Pool is a capability with a budget, in one dimension.
type Pool struct {
	// ID of the capability; empty where nothing bounds.
	ID string
	// Size is what it was given, Used what is taken out of it now.
	Size, Used uint64
}

// Bounded tells whether there is a pool at all.
func (p Pool) Bounded() bool { return p.ID != "" }

// Left is what can still be taken.
func (p Pool) Left() uint64 {
	if p.Used >= p.Size {
		return 0
	}
	return p.Size - p.Used
}

// Tree reads budgets.
type Tree struct {
	// Table has the capabilities.
	Table *gate.Table
	// Charges yields what services take, each service once.
	Charges iter.Seq[Charge]
}

// From is the pool that a capability draws on in a dimension: its own, or the nearest live one above.
// A charge of the service named except does not count.
func (t Tree) From(id string, d Dimension, except string) Pool {
	p := Pool{ID: t.nearest(id, d)}
	if !p.Bounded() {
		return p
	}
	v, _ := t.Table.Get(p.ID)
	p.Size = d.Of(v.Record.GetBudget())
	t.Table.Below(p.ID, func(v gate.View) (descend bool) {
		n := d.Of(v.Record.GetBudget())
		p.Used += n
		return n == 0
	})
	for c := range t.Charges {
		if c.Service != except && c.of(d) > 0 && t.nearest(c.Holder, d) == p.ID {
			p.Used += c.of(d)
		}
	}
	return p
}

// nearest is the first live capability from id upward with a budget in a dimension, or empty.
func (t Tree) nearest(id string, d Dimension) string {
	pool := ""
	t.Table.Up(id, func(v gate.View) (further bool) {
		if v.State == gate.Allowed && d.Of(v.Record.GetBudget()) > 0 {
			pool = v.Record.GetId()
		}
		return pool == ""
	})
	return pool
}

// Lifetime is the shortest lifetime that a capability or one above it sets; 0 is none.
func (t Tree) Lifetime(id string) time.Duration {
	var shortest time.Duration
	t.Table.Up(id, func(v gate.View) (further bool) {
		if d := v.Record.GetBudget().GetLifetime().AsDuration(); d > 0 && (shortest == 0 || d < shortest) {
			shortest = d
		}
		return true
	})
	return shortest
}

// Used is what is taken out of a capability's own budget now, or nil if it has none.
func (t Tree) Used(v gate.View) *solov1.Budget {
	var used *solov1.Budget
	for _, d := range Dimensions() {
		if d.Of(v.Record.GetBudget()) == 0 {
			continue
		}
		if used == nil {
			used = &solov1.Budget{}
		}
		d.set(used, t.From(v.Record.GetId(), d, "").Used)
	}
	return used
}
