package gate

import (
	"sync/atomic"
	"time"
)

// clock is wall time that nobody can set back: the boot clock, and the greatest lead that wall time was
// ever seen to have over it. It is as true as the wall clock while that is not set back.
type clock struct{ lead atomic.Int64 }

func (c *clock) advance(lead int64) {
	for old := c.lead.Load(); lead > old && !c.lead.CompareAndSwap(old, lead); old = c.lead.Load() {
		continue
	}
}

// at is Unix nanoseconds at a boot time.
func (c *clock) at(boot int64) int64 { return boot + c.lead.Load() }

// Now is the time by which capabilities expire and are granted. It is never earlier than the wall clock
// now, than any event applied, or than what Advance was told of.
func (t *Table) Now() time.Time {
	boot := Boottime()
	t.clock.advance(time.Now().UnixNano() - boot)
	return time.Unix(0, t.clock.at(boot))
}

// Lead is by how many nanoseconds Now is ahead of the boot clock, for Advance of another table on this
// machine.
func (t *Table) Lead() int64 {
	t.Now()
	return t.clock.lead.Load()
}

// Advance makes Now ahead of the boot clock by at least lead nanoseconds. It never sets it back.
func (t *Table) Advance(lead int64) { t.clock.advance(lead) }
