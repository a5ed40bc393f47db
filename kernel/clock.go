package kernel

import (
	"context"
	"time"

	"github.com/solo-os/solo/bus/gate"
)

// clockEvery is how often it is noted how late it is: by so much at the most a clock that is set back while
// Solo does not run gives a capability more time.
const clockEvery = time.Minute

// recallClock makes it at least as late as it was when this home was last in use.
func (k *kernel) recallClock() error {
	t, err := k.home.Clock()
	if err != nil || t.IsZero() {
		return err
	}
	if ahead := time.Until(t); ahead > time.Second {
		k.log.Warn("the machine's clock was set back: capabilities expire by the time it was", "was", t, "ahead", ahead.Round(time.Second).String())
	}
	k.fence.Table().Advance(t.UnixNano() - gate.Boottime())
	return nil
}

// noteClock notes how late it is until ctx ends, and once more then.
func (k *kernel) noteClock(ctx context.Context) {
	t := time.NewTicker(clockEvery)
	defer t.Stop()
	for {
		if err := k.home.SetClock(k.fence.Table().Now()); err != nil {
			k.log.Error("how late it is could not be noted", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}
