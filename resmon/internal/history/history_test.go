package history

import (
	"testing"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func every(string) bool { return true }

func TestUsageSumsExactly(t *testing.T) {
	h := New()
	start := time.Unix(100_000, 0)
	const seconds = 1000
	for i := range seconds {
		h.Add(start.Add(time.Duration(i+1)*time.Second), time.Second, map[string]Measure{
			"a/b": {CPUMs: 2, Calls: 3, Errors: 1, MemoryBytes: uint64(1000 + i)},
		})
	}
	end := start.Add(seconds * time.Second)
	rows := h.Usage(every, start, end)
	if len(rows) != 1 {
		t.Fatalf("%v", rows)
	}
	r := rows[0]
	if r.GetService() != "a/b" || r.GetCpuMs() != 2*seconds || r.GetCalls() != 3*seconds || r.GetErrors() != seconds || r.GetPeakMemoryBytes() != 1999 {
		t.Errorf("%v", r)
	}
	if want := float64(1000*seconds + seconds*(seconds-1)/2); r.GetMemoryByteSeconds() != want {
		t.Errorf("%f byte seconds, want %f", r.GetMemoryByteSeconds(), want)
	}
	// The newest seconds are known one by one, older ones by the minute.
	if r := h.Usage(every, end.Add(-10*time.Second), end)[0]; r.GetCpuMs() != 20 {
		t.Errorf("the last ten seconds: %v", r)
	}
	if r := h.Usage(every, start, start.Add(180*time.Second))[0]; r.GetCpuMs() != 360 {
		t.Errorf("the first three minutes: %v", r)
	}
	if rows := h.Usage(every, end, end.Add(time.Hour)); len(rows) != 0 {
		t.Errorf("the future: %v", rows)
	}
	if rows := h.Usage(func(string) bool { return false }, start, end); len(rows) != 0 {
		t.Errorf("nobody's: %v", rows)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	h := New()
	start := time.Unix(100_000, 0)
	at := start
	for range 2 * int(Retention/time.Second) {
		at = at.Add(time.Second)
		h.Add(at, time.Second, map[string]Measure{"a/b": {CPUMs: 1}})
	}
	s := h.services["a/b"]
	if len(s.fine) >= fineKept || len(s.coarse) > coarseKept {
		t.Errorf("%d fine, %d coarse", len(s.fine), len(s.coarse))
	}
	h.Add(at.Add(Retention+time.Minute), time.Second, map[string]Measure{"c/d": {}, "b/a": {}})
	if len(h.services) != 2 {
		t.Errorf("%d services are remembered", len(h.services))
	}
	if rows := h.Usage(every, start, at.Add(2*Retention)); len(rows) != 2 || rows[0].GetService() != "b/a" {
		t.Errorf("%v", rows)
	}
}

func TestCounters(t *testing.T) {
	var c Counters
	at := time.Unix(100_000, 0)
	step := func(ps ...*nodev1.PlacementSample) map[string]Measure {
		at = at.Add(time.Second)
		used, span := c.Step(&kernelv1.SampleAllResponse{Placements: ps}, at)
		if span != time.Second && span != 0 {
			t.Errorf("span %s", span)
		}
		return used
	}
	sample := func(rev, calls, cpu uint64, instance string) *nodev1.PlacementSample {
		return &nodev1.PlacementSample{
			Service: "a/b", Revision: rev, Calls: calls, Errors: calls / 2, LatencyUs: calls * 10, MailboxDepth: 3,
			Instances: []*solov1.Instance{{Id: instance, CpuMs: cpu, MemoryBytes: 7, Restarts: 1, MailboxDepth: 1}},
		}
	}
	if m := step(sample(1, 1000, 500, "x"))["a/b"]; m.Calls != 0 || m.CPUMs != 0 || m.MemoryBytes != 7 || m.Mailbox != 3 {
		t.Errorf("the first sample counts the past: %+v", m)
	}
	if m := step(sample(1, 1010, 520, "x"))["a/b"]; m != (Measure{CPUMs: 20, Calls: 10, Errors: 5, LatencyUs: 100, MemoryBytes: 7, Mailbox: 3, Restarts: 1}) {
		t.Errorf("%+v", m)
	}
	// A new instance and a second revision count from their beginning; one that begins anew as well.
	m := step(sample(1, 1010, 30, "y"), sample(2, 6, 4, "z"))["a/b"]
	if m.Calls != 6 || m.CPUMs != 34 || m.MemoryBytes != 14 || m.Restarts != 2 || m.Mailbox != 6 {
		t.Errorf("%+v", m)
	}
	if m := step(sample(1, 4, 10, "y"))["a/b"]; m.Calls != 4 || m.CPUMs != 10 {
		t.Errorf("after a restart: %+v", m)
	}
	if used := step(); len(used) != 0 {
		t.Errorf("%v", used)
	}
	// One that was missing for a moment goes on where it was, and is forgotten in the end.
	if m := step(sample(1, 5, 12, "y"))["a/b"]; m.Calls != 1 || m.CPUMs != 2 {
		t.Errorf("after a missed sample: %+v", m)
	}
	c.Step(&kernelv1.SampleAllResponse{}, at.Add(remembered+time.Second))
	if len(c.placements) != 0 || len(c.cpu) != 0 {
		t.Errorf("%d placements, %d instances are remembered", len(c.placements), len(c.cpu))
	}
}
