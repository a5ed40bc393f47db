package authority

import (
	"fmt"
	"strings"
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
		// Each of these takes exactly a hundredth of what may be had at once.
		want := terms{label: strings.Repeat("x", bytesAtOnce/100-recordBytes)}
		took := func(id string, tries int) (n int, last error) {
			for range tries {
				if err := p.take(table, id, want); err != nil {
					last = err
				} else {
					n++
				}
			}
			return n, last
		}
		if n, _ := took("root", 500); n != 500 {
			t.Errorf("the root was held back after %d", n)
		}
		one, _ := took("a", 70)
		two, err := took("a1", 70)
		if one+two != 100 {
			t.Errorf("%d and %d grants", one, two)
		}
		f := fault.From(err)
		if f.Reason != fault.ReasonRateLimited || f.RetryAfter <= 0 || f.RetryAfter > 2*time.Second {
			t.Errorf("%v %s", f, f.RetryAfter)
		}
		if n, _ := took("b", 10); n != 10 {
			t.Errorf("another family was held back after %d", n)
		}
		time.Sleep(f.RetryAfter)
		if n, _ := took("a1", 100); n != 1 {
			t.Errorf("%d after the time that was told", n)
		}
		for i := range 3 * paceSweep {
			id := fmt.Sprint("f", i)
			add(id, "root")
			if err := p.take(table, id, want); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if len(p.m) > paceSweep+1 {
			t.Errorf("%d families are remembered", len(p.m))
		}
	})
}
