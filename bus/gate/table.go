// Package gate is the check that every component and runner makes on every message: is the
// capability behind it live, does it give the right, and may this process still act.
//
// Table is a replica of the capability records of stream CAPS, kept in memory. Check costs
// less than a microsecond and does not allocate. Client keeps a Table current from the
// node's fence: events are pushed and acknowledged once applied; what was missed is fetched
// by sequence; and a lease, renewed by the fence while the Table is current, bounds how long
// a process that has lost touch can act.
//
// Locks: Table.mu is a leaf; nothing is called while it is held.
package gate

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/capability"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

// ErrGap says that an event does not follow the last one applied.
var ErrGap = errors.New("gate: events are missing")

// Decision is a gate's verdict.
type Decision uint8

// The decisions. The zero value refuses.
const (
	Unknown Decision = iota
	Allowed
	Revoked
	Expired
	NotGranted
	// NoLease: this process may not act at all now.
	NoLease
)

// String is the reason as it stands in denials.
func (d Decision) String() string {
	return [...]string{"UNKNOWN", "ALLOWED", "REVOKED", "EXPIRED", "NOT_GRANTED", "LEASE"}[d]
}

// Table is safe for concurrent use.
type Table struct {
	lease atomic.Int64 // boot time until which this process may act
	clock clock

	mu         sync.RWMutex
	entries    map[string]*Entry // mu
	components map[string]string // mu; component name by id
	seq        uint64            // mu; last event applied
}

// Entry is one capability in a Table. Its record never changes.
type Entry struct {
	Record *kernelv1.CapRecord
	Rules  capability.Rules
	Parent *Entry

	children []*Entry
	pool     *Entry   // the nearest with a budget of calls a second, itself included; nil without one
	pools    []*Entry // those whose budget is taken out of this one's
	holds    bool     // its key may ask for things
	dead     bool
	revoked  time.Time // when it was revoked itself; zero if it only died with an ancestor
	clock    *clock    // the table's
	wall     int64     // Unix nanoseconds of expiry; 0 is never
}

// NewTable returns an empty table: it knows nobody and has no lease.
func NewTable() *Table {
	return &Table{entries: map[string]*Entry{}, components: map[string]string{}}
}

// Reset forgets all events, for a table that must be loaded anew. Nobody is known meanwhile.
func (t *Table) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries, t.seq = map[string]*Entry{}, 0
}

// Sequence is the last event applied.
func (t *Table) Sequence() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.seq
}

// SetLease lets this process act until a boot time.
func (t *Table) SetLease(until int64) { t.lease.Store(until) }

// Leased tells whether this process may act now.
func (t *Table) Leased() bool { return t.leasedAt(Boottime()) }

func (t *Table) leasedAt(boot int64) bool { return boot < t.lease.Load() || !check.On(check.Lease) }

// SetComponents replaces the component identities, names by id.
func (t *Table) SetComponents(c map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.components = c
}

// Component is the name of a component id, or empty.
func (t *Table) Component(id string) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.components[id]
}

// Apply takes events in order and returns the ids that died with them. Events already applied
// are passed over; a gap is ErrGap and leaves the table at the last event that fits.
func (t *Table) Apply(events []*kernelv1.CapEvent) (died []string, err error) {
	boot := Boottime()
	t.clock.advance(time.Now().UnixNano() - boot)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ev := range events {
		if ev.Sequence <= t.seq {
			continue
		}
		if ev.Sequence != t.seq+1 {
			return died, fmt.Errorf("%w: have %d, got %d", ErrGap, t.seq, ev.Sequence)
		}
		switch c := ev.Change.(type) {
		case *kernelv1.CapEvent_Granted:
			if died, err = t.grant(c.Granted, died); err != nil {
				return died, err
			}
		case *kernelv1.CapEvent_Revoked:
			if e := t.entries[c.Revoked.GetId()]; e != nil {
				if e.revoked.IsZero() {
					e.revoked = ev.GetTime().AsTime()
				}
				died = e.kill(died)
			}
		case *kernelv1.CapEvent_Charged: // what services take out of budgets is capmgr's to count
		default:
			return died, fmt.Errorf("gate: event %d is of a kind unknown to this version", ev.Sequence)
		}
		if at := ev.GetTime(); at != nil {
			t.clock.advance(at.AsTime().UnixNano() - boot) // it has been that late already
		}
		t.seq = ev.Sequence
	}
	return died, nil
}

func (t *Table) grant(r *kernelv1.CapRecord, died []string) ([]string, error) {
	rules, err := capability.ParseRules(r.GetRules())
	if err != nil {
		return died, fmt.Errorf("gate: capability %s: %w", r.GetId(), err)
	}
	if t.entries[r.GetId()] != nil && check.On(check.FreshID) {
		return died, fmt.Errorf("gate: capability %s was granted before: an id is given once", r.GetId())
	}
	e := &Entry{Record: r, Rules: rules, clock: &t.clock}
	if x := r.GetExpiresAt(); x != nil {
		e.wall = x.AsTime().UnixNano()
	}
	if p := r.GetParent(); p != "" {
		parent := t.entries[p]
		if parent == nil {
			return died, fmt.Errorf("gate: capability %s: its parent %s is not known", r.GetId(), p)
		}
		if r.GetKind() == kernelv1.CapKind_CAP_KIND_BOUND {
			// A newer epoch of a placement takes over from every older one on its node.
			for _, o := range parent.children {
				if o.Record.GetKind() == r.GetKind() && o.Record.GetNode() == r.GetNode() && o.Record.GetEpoch() < r.GetEpoch() && check.On(check.Epoch) {
					died = o.kill(died)
				}
			}
			e.Rules = parent.Rules
		}
		e.Parent, e.dead = parent, parent.dead
		if parent.wall != 0 && (e.wall == 0 || parent.wall < e.wall) {
			e.wall = parent.wall
		}
		parent.children = append(parent.children, e)
		e.pool = parent.pool
	}
	if r.GetBudget().GetCallsPerSecond() > 0 {
		if e.pool != nil {
			e.pool.pools = append(e.pool.pools, e)
		}
		e.pool = e
	}
	e.holds = asks(r, e.Parent.record())
	t.entries[r.GetId()] = e
	return died, nil
}

func (e *Entry) record() *kernelv1.CapRecord {
	if e == nil {
		return nil
	}
	return e.Record
}

func (e *Entry) kill(died []string) []string {
	stack := []*Entry{e}
	for len(stack) > 0 {
		e, stack = stack[len(stack)-1], stack[:len(stack)-1]
		if e.dead {
			continue // its subtree died with it
		}
		e.dead = true
		died = append(died, e.Record.GetId())
		stack = append(stack, e.children...)
	}
	return died
}

func (e *Entry) state() Decision {
	if e == nil || e.dead || e.wall == 0 {
		return e.stateAt(0, 0) // no clock is asked where none decides
	}
	return e.stateAt(time.Now().UnixNano(), Boottime())
}

// stateSince is state at a boot time just read, which costs more to read than all the rest.
func (e *Entry) stateSince(boot int64) Decision {
	if e == nil || e.dead || e.wall == 0 {
		return e.stateAt(0, 0)
	}
	return e.stateAt(time.Now().UnixNano(), boot)
}

func (e *Entry) stateAt(now, boot int64) Decision {
	switch {
	case e == nil:
		return Unknown
	case e.dead:
		return Revoked
	case e.wall != 0 && (now >= e.wall || e.clock.at(boot) >= e.wall && check.On(check.BootClock)) && check.On(check.Expiry):
		return Expired
	}
	return Allowed
}

// Live tells whether an id is neither revoked nor expired, by the earlier of the wall clock
// and Now, nor any of its ancestors. It does not ask for a lease.
func (t *Table) Live(id string) Decision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[id].state()
}

// Call decides a call to a service.
func (t *Table) Call(id string, s subject.Service, op string) Decision {
	if !check.On(check.Gate) {
		return Allowed
	}
	boot := Boottime()
	if !t.leasedAt(boot) {
		return NoLease
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if d := e.stateSince(boot); d != Allowed {
		return d
	}
	if !e.holds || !e.Rules.AllowsCall(capability.ServiceObject(s), op) {
		return NotGranted
	}
	return Allowed
}

// System decides a system call by a holder or a component.
func (t *Table) System(m subject.System) Decision {
	if !check.On(check.Gate) {
		return Allowed
	}
	boot := Boottime()
	if !t.leasedAt(boot) {
		return NoLease
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if name := t.components[m.ID]; name != "" {
		for o := range subject.OpsOf(m.Component) {
			if o.Scope == subject.Internal && o.Op == m.Op && (o.Verb == "" || o.Verb == name) {
				return Allowed
			}
		}
		return NotGranted
	}
	e := t.entries[m.ID]
	if d := e.stateSince(boot); d != Allowed {
		return d
	}
	if !e.holds {
		return NotGranted
	}
	var few [2]capability.Need
	needs, open, ok := capability.AppendNeeds(few[:0], m)
	if open {
		return Allowed
	}
	for _, n := range needs {
		if ok && e.Rules.Satisfies(n) {
			return Allowed
		}
	}
	return NotGranted
}

// Rule decides one object and verb, patterns included, for a live id.
func (t *Table) Rule(id string, o capability.Object, v capability.Verb) Decision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if d := e.state(); d != Allowed {
		return d
	}
	if !e.holds || !e.Rules.Allows(o, v) {
		return NotGranted
	}
	return Allowed
}

// asks tells whether a record is one whose key may ask for things: a holder, or a key bound
// to a service's rights to call out.
func asks(r, parent *kernelv1.CapRecord) bool {
	switch r.GetKind() {
	case kernelv1.CapKind_CAP_KIND_HOLDER:
		return true
	case kernelv1.CapKind_CAP_KIND_BOUND:
		return parent.GetKind() == kernelv1.CapKind_CAP_KIND_SERVICE
	}
	return false
}

// View is a copy of what a table knows about one capability.
type View struct {
	Record    *kernelv1.CapRecord // shared, not to be changed
	Rules     capability.Rules    // shared, not to be changed
	State     Decision            // Allowed, Revoked or Expired
	RevokedAt time.Time
	// Expires is the effective expiry, ancestors included; zero is never.
	Expires time.Time
	// Children is how many were granted from it, dead ones included.
	Children int
}

// Get returns a view of an id.
func (t *Table) Get(id string) (View, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if e == nil {
		return View{}, false
	}
	return e.view(), true
}

func (e *Entry) view() View {
	v := View{Record: e.Record, Rules: e.Rules, State: e.state(), RevokedAt: e.revoked, Children: len(e.children)}
	if e.wall != 0 {
		v.Expires = time.Unix(0, e.wall)
	}
	return v
}

// Children returns views of at most n capabilities granted from id, in the order they were
// granted, beginning with the one at index from.
func (t *Table) Children(id string, from, n int) []View {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if e == nil || from < 0 || from >= len(e.children) {
		return nil
	}
	page := e.children[from:min(from+n, len(e.children))]
	out := make([]View, len(page))
	for i, c := range page {
		out[i] = c.view()
	}
	return out
}

// LiveChildren counts the capabilities granted from id that are live.
func (t *Table) LiveChildren(id string) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	if e := t.entries[id]; e != nil {
		n = countLive(slices.Values(e.children))
	}
	return n
}

// Count tells how many capabilities there are, and how many of them are live.
func (t *Table) Count() (all, live int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.entries), countLive(maps.Values(t.entries))
}

func countLive(entries iter.Seq[*Entry]) (n int) {
	now, boot := time.Now().UnixNano(), Boottime()
	for e := range entries {
		if e.stateAt(now, boot) == Allowed {
			n++
		}
	}
	return n
}

// Chain lists the ids from the parent up to the root.
func (t *Table) Chain(id string) (ids []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	for e != nil && e.Parent != nil {
		e = e.Parent
		ids = append(ids, e.Record.GetId())
	}
	return ids
}

// Up shows an id and then each capability above it, until f says not to go further. f must not call
// the Table.
func (t *Table) Up(id string, f func(View) (further bool)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.entries[id]; e != nil && f(e.view()); e = e.Parent {
		continue
	}
}

// Below shows every live capability below id, an outer one before what is below it, and leaves out
// what is below those of which f says so. f must not call the Table.
func (t *Table) Below(id string, f func(View) (descend bool)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if e == nil {
		return
	}
	for stack := slices.Clone(e.children); len(stack) > 0; {
		e, stack = stack[len(stack)-1], stack[:len(stack)-1]
		if v := e.view(); v.State == Allowed && f(v) {
			stack = append(stack, e.children...)
		}
	}
}

// CallBudget is the budget of calls a second that an id draws on: the capability that has it, and what
// is left of it for those without one of their own. A dead capability takes all below it along, so the
// nearest one is always the right one.
func (t *Table) CallBudget(id string) (pool string, perSecond uint64, bounded bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[id]
	if e == nil || e.pool == nil {
		return "", 0, false
	}
	p := e.pool
	left := uint64(p.Record.GetBudget().GetCallsPerSecond())
	for _, c := range p.pools {
		if n := uint64(c.Record.GetBudget().GetCallsPerSecond()); c.state() == Allowed {
			left -= min(left, n)
		}
	}
	return p.Record.GetId(), left, true
}

// Family is the capability below the root that an id descends from, the id itself included; the root
// is a family of its own, and so is an id that is not known.
func (t *Table) Family(id string) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	family := id
	for e := t.entries[id]; e != nil && e.Parent != nil; e = e.Parent {
		family = e.Record.GetId()
	}
	return family
}

// Descends tells whether id is ancestor itself or somewhere below it.
func (t *Table) Descends(id, ancestor string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.entries[id]; e != nil; e = e.Parent {
		if e.Record.GetId() == ancestor {
			return true
		}
	}
	return false
}
