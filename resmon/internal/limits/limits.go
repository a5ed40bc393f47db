// Package limits decides what to do about instances that are over their limits. It is a pure
// state machine over one-second samples: it knows no clock and calls nobody.
//
// Each limit has a soft mark, which is only told, and a hard one with an action. A mark is
// entered when it is reached and left after Settle samples in a row below 90 % of it, so that
// a value that hovers does not flap. An action is decided once, again after its cool-down
// while the value is still over, and after RetryAfter when carrying it out failed.
package limits

import (
	"maps"
	"time"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// Settle is how many samples in a row must be below a mark to leave it.
	Settle = 3
	// CoolDown is how long after a kill or throttle the same is not decided again; WarnAgain
	// the same for warnings.
	CoolDown  = 10 * time.Second
	WarnAgain = time.Minute
	// RetryAfter is when an action that failed is decided again.
	RetryAfter = time.Second
	// CPUWindow is over how long CPU use is averaged; it is judged once CPULeast is known.
	CPUWindow = 5 * time.Second
	CPULeast  = 3 * time.Second

	// Defaults of a manifest.
	defaultMemory  = 64 << 20
	defaultMailbox = 20000
)

// Names of limits, and of marks.
const (
	Memory  = "memory"
	CPU     = "cpu"
	Mailbox = "mailbox"
	Soft    = "soft"
	Hard    = "hard"
)

// Bounds are a manifest's limits with its defaults filled in.
type Bounds struct {
	MemoryBytes uint64
	// CPUMillis is in thousandths of a core; 0 is unlimited.
	CPUMillis uint32
	Mailbox   uint32

	MemoryAction, CPUAction, MailboxAction solov1.LimitAction
}

// BoundsOf fills in the defaults of limits, which may be nil.
func BoundsOf(l *solov1.Limits) Bounds {
	b := Bounds{
		MemoryBytes: l.GetMemoryBytes(), CPUMillis: l.GetCpuMillis(), Mailbox: l.GetMailbox(),
		MemoryAction: l.GetActions().GetMemory(), CPUAction: l.GetActions().GetCpu(), MailboxAction: l.GetActions().GetMailbox(),
	}
	if b.MemoryBytes == 0 {
		b.MemoryBytes = defaultMemory
	}
	if b.Mailbox == 0 {
		b.Mailbox = defaultMailbox
	}
	fill := func(a *solov1.LimitAction, d solov1.LimitAction) {
		if *a == solov1.LimitAction_LIMIT_ACTION_UNSPECIFIED {
			*a = d
		}
	}
	fill(&b.MemoryAction, solov1.LimitAction_LIMIT_ACTION_KILL)
	fill(&b.CPUAction, solov1.LimitAction_LIMIT_ACTION_WARN)
	fill(&b.MailboxAction, solov1.LimitAction_LIMIT_ACTION_THROTTLE)
	return b
}

// Target is what a limit is on.
type Target struct {
	Service  string
	Revision uint64
	// Instance is empty for limits on the whole placement.
	Instance string
	// Limit is Memory, CPU or Mailbox.
	Limit string
}

// Decision is a mark that was reached.
type Decision struct {
	Target
	// Mark is Soft or Hard; Action counts for Hard alone.
	Mark   string
	Action solov1.LimitAction
	// Value and Bound are bytes, thousandths of a core or messages.
	Value, Bound uint64
}

// Judge remembers what was decided. It is not safe for concurrent use.
type Judge struct {
	targets map[Target]*state
	cpu     map[Target][]used
}

type state struct {
	seen  time.Time // in the last sample
	mark  uint8     // 0, 1 soft, 2 hard
	below int       // samples in a row that were well below mark
	quiet time.Time
	busy  bool // an action is being carried out
}

type used struct {
	at time.Time
	ms uint64
}

// NewJudge returns a Judge that has seen nothing.
func NewJudge() *Judge {
	return &Judge{targets: map[Target]*state{}, cpu: map[Target][]used{}}
}

// Step judges one sample. Placements whose bounds are not known are passed over. What has been
// missing from the samples for as long as a cool-down is forgotten.
func (j *Judge) Step(at time.Time, placements []*nodev1.PlacementSample, bounds func(service string, revision uint64) (Bounds, bool)) (out []Decision) {
	for _, p := range placements {
		b, ok := bounds(p.GetService(), p.GetRevision())
		if !ok {
			continue
		}
		memory := b.MemoryBytes
		if m := p.GetMemoryLimitBytes(); m != 0 {
			memory = m // what holds where it runs
		}
		waiting := p.GetMailboxDepth()
		var sum uint32
		for _, i := range p.GetInstances() {
			sum += i.GetMailboxDepth()
			t := Target{p.GetService(), p.GetRevision(), i.GetId(), Memory}
			out = j.judge(out, at, t, i.GetMemoryBytes(), memory, memory/5*4, memory+1, b.MemoryAction)
			t.Limit = CPU
			if rate, known := j.rate(t, at, i.GetCpuMs()); known && b.CPUMillis != 0 {
				// A share that the system holds to is met exactly, give or take a tick.
				bound := uint64(b.CPUMillis)
				out = j.judge(out, at, t, rate, bound, bound/5*4, bound+bound/20+10, b.CPUAction)
			}
		}
		mailbox := uint64(b.Mailbox)
		t := Target{p.GetService(), p.GetRevision(), "", Mailbox}
		out = j.judge(out, at, t, uint64(max(waiting, sum)), mailbox, max(1, mailbox/2), mailbox, b.MailboxAction)
	}
	maps.DeleteFunc(j.targets, func(_ Target, s *state) bool { return at.Sub(s.seen) > CoolDown })
	maps.DeleteFunc(j.cpu, func(_ Target, w []used) bool { return at.Sub(w[len(w)-1].at) > CoolDown })
	return out
}

// Done tells how carrying out a hard decision ended.
func (j *Judge) Done(d Decision, at time.Time, ok bool) {
	s := j.targets[d.Target]
	if s == nil {
		return // it is gone
	}
	s.busy = false
	switch {
	case !ok:
		s.quiet = at.Add(RetryAfter)
	case d.Action == solov1.LimitAction_LIMIT_ACTION_WARN:
		s.quiet = at.Add(WarnAgain)
	default:
		s.quiet = at.Add(CoolDown)
	}
}

// judge takes one value: bound is the limit, soft and hard are where its marks begin.
func (j *Judge) judge(out []Decision, at time.Time, t Target, value, bound, soft, hard uint64, action solov1.LimitAction) []Decision {
	s := j.targets[t]
	if s == nil {
		s = &state{}
		j.targets[t] = s
	}
	s.seen = at
	reached := uint8(0)
	switch {
	case value >= hard:
		reached = 2
	case value >= soft:
		reached = 1
	}
	switch {
	case reached >= s.mark:
		if reached > s.mark && s.mark == 0 {
			out = append(out, Decision{t, Soft, 0, value, bound})
		}
		s.mark, s.below = reached, 0
	case s.mark == 2 && value < hard/10*9, s.mark == 1 && value < soft/10*9:
		if s.below++; s.below >= Settle {
			s.mark, s.below = reached, 0
		}
	default:
		s.below = 0
	}
	if reached == 2 && !s.busy && !at.Before(s.quiet) {
		s.busy = true
		out = append(out, Decision{t, Hard, action, value, bound})
	}
	return out
}

// rate is the CPU use of an instance in thousandths of a core over the last CPUWindow.
func (j *Judge) rate(t Target, at time.Time, ms uint64) (millis uint64, known bool) {
	w := j.cpu[t]
	if len(w) > 0 && ms < w[len(w)-1].ms {
		w = w[:0] // started anew
	}
	w = append(w, used{at, ms})
	for len(w) > 2 && at.Sub(w[1].at) >= CPUWindow {
		w = w[1:]
	}
	j.cpu[t] = w
	over := at.Sub(w[0].at)
	if over < CPULeast {
		return 0, false
	}
	return uint64(float64(ms-w[0].ms) * 1000 / float64(over.Milliseconds())), true
}
