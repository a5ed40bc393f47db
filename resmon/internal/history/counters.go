package history

import (
	"maps"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// Counters turns samples, whose counters run since the start of a placement or instance, into
// what was used between one sample and the next. A counter that is seen for the first time
// counts from zero, except in the very first sample: what it had counted before then belongs
// to a time nobody observed. One that has gone back was started anew, and one that was missing
// for less than remembered (its runner did not answer in time) goes on where it was. Not safe
// for concurrent use.
type Counters struct {
	placements map[placement]counts
	cpu        map[instance]cpu
	at         time.Time
}

// remembered is how long a counter that is missing from the samples is kept.
const remembered = 5 * time.Minute

type placement struct {
	service  string
	revision uint64
}

type instance struct {
	placement
	id string
}

type counts struct {
	calls, errs, latency uint64
	at                   time.Time
}

type cpu struct {
	ms uint64
	at time.Time
}

// Step takes the next sample, and returns what each service used since the one before and
// over how long; span is 0 for the first.
func (c *Counters) Step(s *kernelv1.SampleAllResponse, at time.Time) (used map[string]Measure, span time.Duration) {
	first := c.at.IsZero()
	if !first {
		span = at.Sub(c.at)
	}
	if c.placements == nil {
		c.placements, c.cpu = map[placement]counts{}, map[instance]cpu{}
	}
	used = make(map[string]Measure, len(c.placements))
	for _, p := range s.GetPlacements() {
		k := placement{p.GetService(), p.GetRevision()}
		now := counts{p.GetCalls(), p.GetErrors(), p.GetLatencyUs(), at}
		m := used[k.service]
		if !first {
			was := c.placements[k]
			m.Calls += since(was.calls, now.calls)
			m.Errors += since(was.errs, now.errs)
			m.LatencyUs += since(was.latency, now.latency)
		}
		c.placements[k] = now
		var waiting uint32
		for _, i := range p.GetInstances() {
			ik := instance{k, i.GetId()}
			if !first {
				m.CPUMs += since(c.cpu[ik].ms, i.GetCpuMs())
			}
			c.cpu[ik] = cpu{i.GetCpuMs(), at}
			m.MemoryBytes += i.GetMemoryBytes()
			m.Restarts += i.GetRestarts()
			waiting += i.GetMailboxDepth()
		}
		m.Mailbox += max(waiting, p.GetMailboxDepth())
		used[k.service] = m
	}
	maps.DeleteFunc(c.placements, func(_ placement, v counts) bool { return at.Sub(v.at) > remembered })
	maps.DeleteFunc(c.cpu, func(_ instance, v cpu) bool { return at.Sub(v.at) > remembered })
	c.at = at
	return used, span
}

func since(was, now uint64) uint64 {
	if now < was {
		return now
	}
	return now - was
}
