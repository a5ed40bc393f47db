package limits

import (
	"fmt"
	"testing"
	"time"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	kill     = solov1.LimitAction_LIMIT_ACTION_KILL
	throttle = solov1.LimitAction_LIMIT_ACTION_THROTTLE
	warn     = solov1.LimitAction_LIMIT_ACTION_WARN
)

func TestBoundsOf(t *testing.T) {
	if got, want := BoundsOf(nil), (Bounds{64 << 20, 0, 20000, kill, warn, throttle}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	l := &solov1.Limits{MemoryBytes: 5, CpuMillis: 6, Mailbox: 7, Actions: &solov1.LimitActions{Memory: warn, Cpu: kill, Mailbox: kill}}
	if got, want := BoundsOf(l), (Bounds{5, 6, 7, warn, kill, kill}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// bench judges one instance, second by second.
type bench struct {
	*Judge
	at     time.Time
	bounds Bounds
	spent  uint64
}

func newBench(b Bounds) *bench { return &bench{NewJudge(), time.Unix(1000, 0), b, 0} }

func (b *bench) step(memory uint64, mailbox uint32, cpuMs uint64) []Decision {
	b.at = b.at.Add(time.Second)
	b.spent += cpuMs
	return b.Step(b.at, []*nodev1.PlacementSample{{
		Service: "a/b", Revision: 1, MailboxDepth: mailbox, Instances: []*solov1.Instance{{Id: "i", MemoryBytes: memory, CpuMs: b.spent}},
	}}, func(string, uint64) (Bounds, bool) { return b.bounds, true })
}

func (b *bench) done(ds []Decision, ok bool) {
	for _, d := range ds {
		if d.Mark == Hard {
			b.Done(d, b.at, ok)
		}
	}
}

func names(ds []Decision) (s string) {
	for _, d := range ds {
		s += fmt.Sprintf("%s %s;", d.Limit, d.Mark)
	}
	return s
}

func TestMemory(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{MemoryBytes: 1000}))
	for i, c := range []struct {
		memory uint64
		want   string
	}{
		{500, ""},
		{799, ""},
		{800, "memory soft;"},
		{950, ""}, // told once
		{790, ""},
		{805, ""},
		{795, ""},
		{800, ""}, // hovering does not tell again
		{100, ""},
		{100, ""},
		{800, ""}, // nor does a short dip
		{100, ""},
		{100, ""},
		{100, ""},
		{800, "memory soft;"}, // left for good, and back
		{1000, ""},            // the limit itself is allowed
		{1001, "memory hard;"},
	} {
		if got := names(b.step(c.memory, 0, 0)); got != c.want {
			t.Errorf("step %d (%d): %q, want %q", i, c.memory, got, c.want)
		}
	}
}

func TestActionsCoolDown(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{MemoryBytes: 1000}))
	first := b.step(2000, 0, 0)
	if got := names(first); got != "memory soft;memory hard;" || first[1].Action != kill || first[1].Value != 2000 || first[1].Bound != 1000 || first[1].Instance != "i" {
		t.Fatalf("%+v", first)
	}
	if got := b.step(2000, 0, 0); len(got) != 0 {
		t.Errorf("decided again while it is carried out: %v", got)
	}
	b.done(first, false)
	retry := b.step(2000, 0, 0)
	if names(retry) != "memory hard;" {
		t.Fatalf("a failure is not repeated: %v", retry)
	}
	b.done(retry, true)
	for i := range int(CoolDown/time.Second) - 1 {
		if got := b.step(2000, 0, 0); len(got) != 0 {
			t.Fatalf("%d s after it: %v", i+1, got)
		}
	}
	if got := names(b.step(2000, 0, 0)); got != "memory hard;" {
		t.Errorf("after the cool-down: %q", got)
	}
}

func TestWarningsAreFar(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{MemoryBytes: 1000, Actions: &solov1.LimitActions{Memory: warn}}))
	b.done(b.step(2000, 0, 0), true)
	n := 0
	for range 2 * int(WarnAgain/time.Second) {
		ds := b.step(2000, 0, 0)
		n += len(ds)
		b.done(ds, true)
	}
	if n != 2 {
		t.Errorf("%d warnings in two minutes", n)
	}
}

func TestMailbox(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{Mailbox: 10}))
	for i, c := range []struct {
		depth uint32
		want  string
	}{{4, ""}, {5, "mailbox soft;"}, {9, ""}, {10, "mailbox hard;"}} {
		ds := b.step(0, c.depth, 0)
		if got := names(ds); got != c.want {
			t.Errorf("step %d: %q, want %q", i, got, c.want)
		}
		if len(ds) == 1 && ds[0].Instance != "" {
			t.Errorf("%+v", ds[0])
		}
	}
}

func TestCPU(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{CpuMillis: 500, Actions: &solov1.LimitActions{Cpu: kill}}))
	var told string
	for range 20 {
		told += names(b.step(0, 0, 200))
	}
	if told != "" {
		t.Errorf("at 200 of 500: %q", told)
	}
	for range 20 {
		told += names(b.step(0, 0, 500)) // exactly what it may use
	}
	if told != "cpu soft;" {
		t.Errorf("at 500 of 500: %q", told)
	}
	told = ""
	seconds := 0
	for told == "" && seconds < 20 {
		told = names(b.step(0, 0, 900))
		seconds++
	}
	if told != "cpu hard;" || seconds > 5 {
		t.Errorf("at 900 of 500: %q after %d s", told, seconds)
	}
	// A short burst is none of its business, and a counter that begins anew is no use of CPU.
	c := newBench(BoundsOf(&solov1.Limits{CpuMillis: 500}))
	told = ""
	for i := range 30 {
		ms := uint64(50)
		if i == 15 {
			ms = 1000
		}
		told += names(c.step(0, 0, ms))
		if i == 20 {
			c.spent = 0
		}
	}
	if told != "" {
		t.Errorf("a burst: %q", told)
	}
	free := newBench(BoundsOf(nil))
	for range 10 {
		if got := free.step(0, 0, 4000); len(got) != 0 {
			t.Errorf("without a limit: %v", got)
		}
	}
}

func TestForgets(t *testing.T) {
	b := newBench(BoundsOf(&solov1.Limits{MemoryBytes: 1000}))
	first := b.step(2000, 0, 0)
	b.at = b.at.Add(CoolDown + time.Second)
	b.Step(b.at, nil, nil)
	if len(b.targets) != 0 || len(b.cpu) != 0 {
		t.Errorf("%d targets, %d windows are kept", len(b.targets), len(b.cpu))
	}
	b.done(first, true) // of something that is gone
	if got := names(b.step(2000, 0, 0)); got != "memory soft;memory hard;" {
		t.Errorf("a new instance: %q", got)
	}
	unknown := NewJudge()
	p := []*nodev1.PlacementSample{{Service: "a/b", Instances: []*solov1.Instance{{Id: "i", MemoryBytes: 1 << 40}}}}
	if got := unknown.Step(b.at, p, func(string, uint64) (Bounds, bool) { return Bounds{}, false }); len(got) != 0 {
		t.Errorf("without bounds: %v", got)
	}
	// What holds where it runs counts more than what the manifest says.
	p[0].MemoryLimitBytes = 1 << 41
	if got := unknown.Step(b.at, p, func(string, uint64) (Bounds, bool) { return b.bounds, true }); len(got) != 0 {
		t.Errorf("below the limit that holds: %v", got)
	}
}
