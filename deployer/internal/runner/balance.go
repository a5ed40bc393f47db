package runner

import (
	"context"
	"runtime"
	"time"
)

// Bounds of the scheduler's slots, of which a guest that computes holds one between two looks at its
// deadline.
const (
	balanceEvery = 20 * time.Millisecond
	mostSlots    = 64
)

// balance gives the scheduler more slots while guests hold them, so that the bus and short calls find
// one and the kernel shares out the cores, and no more than cores otherwise, which is fastest.
func (r *Runner) balance(ctx context.Context) {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	t := time.NewTicker(balanceEvery)
	defer t.Stop()
	slots, calm := cores, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		want := cores
		if n := int(r.guests.Load()); n >= cores {
			want = min(mostSlots, cores+n+2)
		}
		switch {
		case want > slots:
			calm = 0
		case want == slots:
			calm = 0
			continue
		default: // changing stops the world for a moment, so not at every lull
			if calm++; calm < 25 {
				continue
			}
			calm = 0
		}
		slots = want
		runtime.GOMAXPROCS(slots)
	}
}
