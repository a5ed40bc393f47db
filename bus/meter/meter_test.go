package meter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/meter"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

type tree struct {
	*gate.Table
	t   *testing.T
	seq uint64
}

func (x *tree) apply(ev *kernelv1.CapEvent) {
	x.t.Helper()
	x.seq++
	ev.Sequence = x.seq
	if _, err := x.Apply([]*kernelv1.CapEvent{ev}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tree) add(id, parent string, calls uint32) {
	x.t.Helper()
	x.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
		Id: id, Parent: parent, Budget: &solov1.Budget{CallsPerSecond: calls}, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
	}}})
}

func admitted(m *meter.Meter, id string, tries int) (n int, last error) {
	for range tries {
		if err := m.Admit(id); err != nil {
			last = err
		} else {
			n++
		}
	}
	return n, last
}

func TestCallsAreTakenOutOfTheBudgetAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &tree{Table: gate.NewTable(), t: t}
		m := meter.New(x.Table)
		x.add("root", "", 0)
		x.add("a", "root", 100)
		x.add("a1", "a", 0)
		x.add("a2", "a", 0)
		if n, err := admitted(m, "root", 1000); n != 1000 {
			t.Fatal(n, err)
		}
		// The two draw on one budget.
		one, _ := admitted(m, "a1", 80)
		two, err := admitted(m, "a2", 80)
		if one+two != 100 {
			t.Errorf("%d and %d calls", one, two)
		}
		f := fault.From(err)
		if f.Reason != fault.ReasonRateLimited || f.RetryAfter <= 0 || f.RetryAfter > time.Second || f.Metadata["object"] != "a" {
			t.Errorf("%v %v", f, f.Metadata)
		}
		time.Sleep(f.RetryAfter)
		if err := m.Admit("a1"); err != nil {
			t.Errorf("after the time it was told: %v", err)
		}
		// What is passed on is gone, and comes back.
		x.add("b", "a1", 60)
		time.Sleep(2 * time.Second)
		if n, _ := admitted(m, "a2", 200); n != 40 {
			t.Errorf("%d calls of 40 that are left", n)
		}
		if n, _ := admitted(m, "b", 200); n != 60 {
			t.Errorf("%d calls of 60", n)
		}
		x.add("c", "a2", 40)
		if err := m.Admit("a"); !fault.Is(err, fault.ReasonBudget) || fault.From(err).Retryable {
			t.Errorf("everything was passed on: %v", err)
		}
		x.apply(&kernelv1.CapEvent{Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: "b"}}})
		time.Sleep(2 * time.Second)
		if err := m.Admit("a"); err != nil { // it looks again, and fills up from then on
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if n, _ := admitted(m, "a", 200); n != 60 {
			t.Errorf("%d calls of 60 that came back", n)
		}
	})
}

// Budgets that nobody draws on any more cost nothing.
func TestFullBucketsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &tree{Table: gate.NewTable(), t: t}
		m := meter.New(x.Table)
		x.add("root", "", 0)
		for i := range 5000 {
			id := fmt.Sprint("c", i)
			x.add(id, "root", 5)
			if err := m.Admit(id); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := m.Len(); n > 2048 {
			t.Errorf("%d buckets", n)
		}
	})
}
