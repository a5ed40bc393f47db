package live

import (
	"testing"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func placement(service string, revision uint64, ids ...string) *nodev1.PlacementState {
	p := &nodev1.PlacementState{Service: service, Revision: revision}
	for _, id := range ids {
		p.Instances = append(p.Instances, &solov1.Instance{Id: id})
	}
	return p
}

func ids(s Status) (out string) {
	for _, i := range s.Instances {
		out += i.GetNode() + ":" + i.GetId() + " "
	}
	return out
}

func TestReports(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(func() time.Time { return now })
	report := func(node, reporter string, full bool, ps ...*nodev1.PlacementState) {
		l.Report(reporter, &kernelv1.ReportRequest{Node: node, Full: full, Placements: ps})
	}
	expect := func(what, want string) {
		t.Helper()
		if got := ids(l.Service("a/b")); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	report("n1", "d1", true, placement("a/b", 1, "x", "w"), placement("a/c", 1, "z"))
	report("n2", "d2", true, placement("a/b", 1, "y"))
	expect("two nodes", "n1:w n1:x n2:y ")
	report("n1", "d1", false, placement("a/b", 2, "v"))
	expect("a second revision", "n1:v n1:w n1:x n2:y ")
	report("n1", "d1", false, placement("a/b", 1))
	expect("the first has ended", "n1:v n2:y ")
	report("n1", "d1", true, placement("a/b", 2, "u"))
	expect("a full report replaces", "n1:u n2:y ")
	if s := l.Service("a/c"); len(s.Instances) != 0 {
		t.Errorf("%v", s)
	}
	report("n1", "d9", false, placement("a/c", 1, "z"))
	expect("another deployer knows nothing of what was before", "n2:y ")

	now = now.Add(Stale)
	report("n1", "d9", false)
	expect("still fresh", "n2:y ")
	now = now.Add(time.Millisecond)
	expect("not reported any more", "")
	if n, ok := l.Node("n2"); !ok || n.Fresh || n.Instances != 0 {
		t.Errorf("%+v", n)
	}
	if n, ok := l.Node("n1"); !ok || !n.Fresh || n.Instances != 1 {
		t.Errorf("%+v", n)
	}
	if _, ok := l.Node("n3"); ok {
		t.Error("a node nobody knows")
	}
}

func TestSamples(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(func() time.Time { return now })
	sample := func(service string, memory uint64) {
		l.Sample(&kernelv1.SampleAllResponse{Node: "n", Placements: []*nodev1.PlacementSample{{
			Service: service, Revision: 1, Instances: []*solov1.Instance{{Id: "x", MemoryBytes: memory, MailboxDepth: 2, Pid: 9}},
		}}})
	}
	memory := func() uint64 {
		l.Report("d", &kernelv1.ReportRequest{Node: "n", Placements: []*nodev1.PlacementState{placement("a/b", 1, "x", "unmeasured")}})
		is := l.Service("a/b").Instances
		if is[0].GetId() != "unmeasured" || is[0].GetMemoryBytes() != 0 {
			t.Errorf("%v", is)
		}
		return is[1].GetMemoryBytes()
	}
	if m := memory(); m != 0 {
		t.Errorf("%d before any sample", m)
	}
	sample("a/b", 5)
	sample("a/c", 7) // another part of the same measurement
	if m := memory(); m != 5 {
		t.Errorf("%d", m)
	}
	if i := l.Service("a/b").Instances[1]; i.GetPid() != 9 || i.GetMailboxDepth() != 2 {
		t.Errorf("%v", i)
	}
	now = now.Add(Stale + time.Millisecond)
	if m := memory(); m != 0 {
		t.Errorf("%d of a measurement from long ago", m)
	}
	sample("a/c", 7)
	if len(l.samples) != 1 {
		t.Errorf("%d measurements are kept", len(l.samples))
	}
}
