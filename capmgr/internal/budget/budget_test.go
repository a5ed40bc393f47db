package budget_test

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/capmgr/internal/budget"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"
)

// model is a tree of capabilities with services, in which every grant and charge asks first.
type model struct {
	table   *gate.Table
	seq     uint64
	ids     []string
	parent  map[string]string
	budgets map[string]*solov1.Budget
	dead    map[string]bool
	charges []budget.Charge
}

func newModel() *model {
	m := &model{table: gate.NewTable(), parent: map[string]string{}, budgets: map[string]*solov1.Budget{}, dead: map[string]bool{}}
	m.add("root", "", nil)
	return m
}

func (m *model) apply(ev *kernelv1.CapEvent) {
	m.seq++
	ev.Sequence = m.seq
	if _, err := m.table.Apply([]*kernelv1.CapEvent{ev}); err != nil {
		panic(err)
	}
}

func (m *model) add(id, parent string, b *solov1.Budget) {
	m.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
		Id: id, Parent: parent, Budget: b, Kind: kernelv1.CapKind_CAP_KIND_HOLDER, Depth: 16,
	}}})
	m.ids, m.parent[id], m.budgets[id] = append(m.ids, id), parent, b
}

func (m *model) kill(id string) {
	m.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: id}}})
	for _, x := range m.ids {
		m.dead[x] = m.dead[x] || m.under(x, id)
	}
}

func (m *model) under(id, ancestor string) bool {
	for ; id != ""; id = m.parent[id] {
		if id == ancestor {
			return true
		}
	}
	return false
}

func (m *model) tree() budget.Tree {
	return budget.Tree{Table: m.table, Charges: iter.Seq[budget.Charge](slices.Values(m.charges))}
}

// used is what services below a capability take together, counted one by one.
func (m *model) used(id string, d budget.Dimension) (n uint64) {
	for _, c := range m.charges {
		if m.under(c.Holder, id) {
			n += map[budget.Dimension]uint64{budget.Services: 1, budget.Memory: c.MemoryBytes}[d]
		}
	}
	return n
}

// However budgets are passed on, revoked and used, what all services below a live capability take is
// within its budget.
func TestNothingEscapesABudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			who := rapid.SampledFrom(m.ids).Draw(t, "who")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				b := &solov1.Budget{Services: rapid.Uint32Range(0, 6).Draw(t, "services"), MemoryBytes: rapid.Uint64Range(0, 60).Draw(t, "memory")}
				fits := !m.dead[who]
				for _, d := range []budget.Dimension{budget.Services, budget.Memory} {
					p := m.tree().From(who, d, "")
					fits = fits && (!p.Bounded() || d.Of(b) <= p.Left())
				}
				if fits {
					m.add(fmt.Sprint("c", step), who, b)
				}
			case 2, 3:
				c := budget.Charge{Service: fmt.Sprint("s", rapid.IntRange(0, 8).Draw(t, "service")), Holder: who, MemoryBytes: rapid.Uint64Range(1, 20).Draw(t, "takes")}
				services, memory := m.tree().From(who, budget.Services, c.Service), m.tree().From(who, budget.Memory, c.Service)
				if m.dead[who] || services.Bounded() && services.Left() < 1 || memory.Bounded() && memory.Left() < c.MemoryBytes {
					continue
				}
				m.charges = append(slices.DeleteFunc(m.charges, func(o budget.Charge) bool { return o.Service == c.Service }), c)
			case 4:
				if who != "root" {
					m.kill(who)
				}
			}
			for _, id := range m.ids {
				for _, d := range []budget.Dimension{budget.Services, budget.Memory} {
					size := d.Of(m.budgets[id])
					if m.dead[id] || size == 0 {
						continue
					}
					p := m.tree().From(id, d, "")
					if n := m.used(id, d); n > size || p.ID != id || p.Used > size || p.Used < n {
						t.Fatalf("%s: services below it take %d of its %d %s; the pool says %+v", id, n, size, d.Field(), p)
					}
				}
			}
		}
	})
}

func TestPools(t *testing.T) {
	m := newModel()
	if p := m.tree().From("root", budget.Services, ""); p.Bounded() {
		t.Errorf("%+v", p)
	}
	m.add("a", "root", &solov1.Budget{Services: 5, CallsPerSecond: 100, Lifetime: durationpb.New(time.Hour)})
	m.add("b", "a", nil)
	m.add("c", "b", &solov1.Budget{Services: 3, CallsPerSecond: 40, Lifetime: durationpb.New(time.Minute)})
	m.charges = []budget.Charge{{Service: "x/1", Holder: "b", MemoryBytes: 1}, {Service: "x/2", Holder: "c", MemoryBytes: 1}}
	for id, want := range map[string]budget.Pool{"a": {"a", 5, 4}, "b": {"a", 5, 4}, "c": {"c", 3, 1}} {
		if p := m.tree().From(id, budget.Services, ""); p != want {
			t.Errorf("%s: %+v, want %+v", id, p, want)
		}
	}
	if p := m.tree().From("b", budget.Services, "x/1"); p.Used != 3 {
		t.Errorf("without its own: %+v", p)
	}
	if p := m.tree().From("a", budget.Calls, ""); p.Left() != 60 {
		t.Errorf("%+v", p)
	}
	if p := m.tree().From("c", budget.Memory, ""); p.Bounded() {
		t.Errorf("%+v", p)
	}
	for id, want := range map[string]time.Duration{"root": 0, "a": time.Hour, "b": time.Hour, "c": time.Minute} {
		if d := m.tree().Lifetime(id); d != want {
			t.Errorf("%s: %s", id, d)
		}
	}
	v, _ := m.table.Get("a")
	if u := m.tree().Used(v); u.GetServices() != 4 || u.GetCallsPerSecond() != 40 || u.GetMemoryBytes() != 0 {
		t.Errorf("%v", u)
	}
	if v, _ := m.table.Get("b"); m.tree().Used(v) != nil {
		t.Error("something is used of no budget")
	}
	// What a dead one held comes back, less what its services still take.
	m.kill("c")
	if p := m.tree().From("a", budget.Services, ""); p.Used != 2 {
		t.Errorf("%+v", p)
	}
	if p := (budget.Pool{ID: "x", Size: 1, Used: 2}); p.Left() != 0 {
		t.Error(p.Left())
	}
}
