// Package history keeps what services used: second by second for the last minute or two, then
// minute by minute for six hours, in memory, some 20 KiB a service at most. It begins anew
// with the process.
package history

import (
	"slices"
	"strings"
	"sync"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	fineKept   = 120 // newest intervals kept as they came
	fineFolded = 60  // how many of the oldest of them become one
	coarseKept = 360
	// Retention is how far back Usage can look.
	Retention = coarseKept * time.Minute
)

// Measure is what a service used in one interval.
type Measure struct {
	// CPUMs, Calls, Errors and LatencyUs were added in the interval.
	CPUMs, Calls, Errors, LatencyUs uint64
	// MemoryBytes, Mailbox and Restarts stand at its end, of all instances together.
	MemoryBytes       uint64
	Mailbox, Restarts uint32
}

type interval struct {
	end                int64 // Unix milliseconds
	cpuMs, calls, errs uint64
	peak               uint64
	memoryByteSeconds  float64
}

func (i *interval) add(o interval) {
	i.end = max(i.end, o.end)
	i.cpuMs += o.cpuMs
	i.calls += o.calls
	i.errs += o.errs
	i.peak = max(i.peak, o.peak)
	i.memoryByteSeconds += o.memoryByteSeconds
}

type series struct{ fine, coarse []interval }

// History is safe for concurrent use.
type History struct {
	mu       sync.Mutex
	services map[string]*series // mu
}

// New returns an empty History.
func New() *History { return &History{services: map[string]*series{}} }

// Add records what each service used in the interval of length span that ended at a time, and
// forgets services that used nothing within Retention.
func (h *History) Add(at time.Time, span time.Duration, used map[string]Measure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, m := range used {
		s := h.services[name]
		if s == nil {
			s = &series{}
			h.services[name] = s
		}
		s.push(interval{
			end: at.UnixMilli(), cpuMs: m.CPUMs, calls: m.Calls, errs: m.Errors, peak: m.MemoryBytes,
			memoryByteSeconds: float64(m.MemoryBytes) * span.Seconds(),
		})
	}
	oldest := at.Add(-Retention).UnixMilli()
	for name, s := range h.services {
		if s.fine[len(s.fine)-1].end < oldest {
			delete(h.services, name)
		}
	}
}

func (s *series) push(i interval) {
	s.fine = append(s.fine, i)
	if len(s.fine) < fineKept {
		return
	}
	var folded interval
	for _, f := range s.fine[:fineFolded] {
		folded.add(f)
	}
	s.fine = slices.Delete(s.fine, 0, fineFolded)
	if len(s.coarse) == coarseKept {
		s.coarse = slices.Delete(s.coarse, 0, 1)
	}
	s.coarse = append(s.coarse, folded)
}

// Usage sums the intervals that ended after from and not after to, for the services that pick
// wants, by name. What is older than a minute or two is known to the minute.
func (h *History) Usage(pick func(service string) bool, from, to time.Time) []*solov1.UsageRow {
	h.mu.Lock()
	defer h.mu.Unlock()
	var rows []*solov1.UsageRow
	for name, s := range h.services {
		if !pick(name) {
			continue
		}
		var sum interval
		for _, kept := range [][]interval{s.coarse, s.fine} {
			for _, i := range kept {
				if i.end > from.UnixMilli() && i.end <= to.UnixMilli() {
					sum.add(i)
				}
			}
		}
		if sum.end == 0 {
			continue
		}
		rows = append(rows, &solov1.UsageRow{
			Service: name, CpuMs: sum.cpuMs, MemoryByteSeconds: sum.memoryByteSeconds, PeakMemoryBytes: sum.peak, Calls: sum.calls, Errors: sum.errs,
		})
	}
	slices.SortFunc(rows, func(a, b *solov1.UsageRow) int { return strings.Compare(a.GetService(), b.GetService()) })
	return rows
}
