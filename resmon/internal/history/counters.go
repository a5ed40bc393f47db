package history

import (
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// Counters turns samples, whose counters run since the start of a placement or instance, into
// what was used between one sample and the next. A counter that is seen for the first time
// counts from zero, except in the very first sample: what it had counted before then belongs
// to a time nobody observed. One that has gone back was started anew. Not safe for concurrent
// use.
type Counters struct {
	placements map[placement]counts
	cpu        map[instance]uint64
	at         time.Time
}

type placement struct {
	service  string
	revision uint64
}

type instance struct {
	placement
	id string
}

type counts struct{ calls, errs, latency uint64 }

// Step takes the next sample, and returns what each service used since the one before and
// over how long; span is 0 for the first.
func (c *Counters) Step(s *kernelv1.SampleAllResponse, at time.Time) (used map[string]Measure, span time.Duration) {
	first := c.at.IsZero()
	if !first {
		span = at.Sub(c.at)
	}
	used = make(map[string]Measure, len(c.placements))
	placements := make(map[placement]counts, len(s.GetPlacements()))
	cpu := make(map[instance]uint64, len(c.cpu))
	for _, p := range s.GetPlacements() {
		k := placement{p.GetService(), p.GetRevision()}
		now := counts{p.GetCalls(), p.GetErrors(), p.GetLatencyUs()}
		m := used[k.service]
		if was, known := c.placements[k]; known || !first {
			m.Calls += since(was.calls, now.calls)
			m.Errors += since(was.errs, now.errs)
			m.LatencyUs += since(was.latency, now.latency)
		}
		placements[k] = now
		var waiting uint32
		for _, i := range p.GetInstances() {
			ik := instance{k, i.GetId()}
			if was, known := c.cpu[ik]; known || !first {
				m.CPUMs += since(was, i.GetCpuMs())
			}
			cpu[ik] = i.GetCpuMs()
			m.MemoryBytes += i.GetMemoryBytes()
			m.Restarts += i.GetRestarts()
			waiting += i.GetMailboxDepth()
		}
		m.Mailbox += max(waiting, p.GetMailboxDepth())
		used[k.service] = m
	}
	c.placements, c.cpu, c.at = placements, cpu, at
	return used, span
}

func since(was, now uint64) uint64 {
	if now < was {
		return now
	}
	return now - was
}
