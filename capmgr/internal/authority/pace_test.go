package authority

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

func TestFamiliesGrantAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := gate.NewTable()
		seq := uint64(0)
		add := func(id, parent string) {
			t.Helper()
			seq++
			if _, err := table.Apply([]*kernelv1.CapEvent{{Sequence: seq, Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
				Id: id, Parent: parent, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
			}}}}); err != nil {
				t.Fatal(err)
			}
		}
		add("root", "")
		add("a", "root")
		add("a1", "a")
		add("b", "root")
		p := newPace()
		took := func(id string, tries int) (n int, last error) {
			for range tries {
				if err := p.take(table, id); err != nil {
					last = err
				} else {
					n++
				}
			}
			return n, last
		}
		if n, _ := took("root", 5000); n != 5000 {
			t.Errorf("the root was held back after %d", n)
		}
		one, _ := took("a", 700)
		two, err := took("a1", 700)
		if one+two != grantsAtOnce {
			t.Errorf("%d and %d grants", one, two)
		}
		f := fault.From(err)
		if f.Reason != fault.ReasonRateLimited || f.RetryAfter <= 0 || f.RetryAfter > time.Second/grantsPerSecond+time.Millisecond {
			t.Errorf("%v %s", f, f.RetryAfter)
		}
		if n, _ := took("b", 10); n != 10 {
			t.Errorf("another family was held back after %d", n)
		}
		time.Sleep(time.Second)
		if n, _ := took("a1", 100); n != grantsPerSecond {
			t.Errorf("%d a second later", n)
		}
		for i := range 3 * paceSweep {
			id := fmt.Sprint("f", i)
			add(id, "root")
			if err := p.take(table, id); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(p.m) > paceSweep+1 {
			t.Errorf("%d families are remembered", len(p.m))
		}
	})
}
