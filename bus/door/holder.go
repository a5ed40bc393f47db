package door

import (
	"sync"
	"sync/atomic"
	"time"
)

// holder is what all connections of one key share.
type holder struct {
	id  string
	own bool // a process of Solo's own: no limits

	calls atomic.Int64 // that wait for their answer

	mu         sync.Mutex
	conns      int       // mu
	left       time.Time // mu; when the last connection ended
	bytes      bucket    // mu
	messages   bucket    // mu
	interest   bucket    // mu; changes of subscriptions
	violations bucket    // mu
}

// load is what one piece of a client's stream costs.
type load struct{ bytes, messages, interest int }

// newHolder makes a holder with full buckets. Who serves, sends and gets as much as it is asked.
func newHolder(id string, own, serves bool, l Limits, now time.Time) *holder {
	if serves {
		l.Bytes, l.Messages = Rate{}, Rate{}
	}
	return &holder{
		id: id, own: own, left: now,
		bytes: newBucket(l.Bytes, now), messages: newBucket(l.Messages, now), interest: newBucket(l.Interest, now), violations: newBucket(l.Violations, now),
	}
}

// charge takes what is about to be passed on and returns how long to wait with it, and because
// of what.
func (h *holder) charge(now time.Time, l load) (wait time.Duration, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range []struct {
		b    *bucket
		n    int
		what string
	}{{&h.bytes, l.bytes, RefusedBytes}, {&h.messages, l.messages, RefusedMessages}, {&h.interest, l.interest, RefusedInterest}, {&h.violations, 0, RefusedViolations}} {
		if d := x.b.take(now, x.n); d > wait {
			wait, what = d, x.what
		}
	}
	return min(wait, maxPause), what
}

// violated takes one violation of permissions.
func (h *holder) violated(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.violations.take(now, 1)
}

// bucket is a token bucket that may be overdrawn: what has happened is paid for by waiting.
// The zero value limits nothing.
type bucket struct {
	rate  float64 // a second; 0 is no limit
	burst float64
	level float64
	at    time.Time
}

func newBucket(r Rate, now time.Time) bucket {
	return bucket{rate: r.PerSecond, burst: float64(r.Burst), level: float64(r.Burst), at: now}
}

// take takes n and returns how long it takes until the bucket is no longer overdrawn.
func (b *bucket) take(now time.Time, n int) time.Duration {
	if b.rate <= 0 {
		return 0
	}
	if d := now.Sub(b.at); d > 0 {
		b.level = min(b.burst, b.level+d.Seconds()*b.rate)
		b.at = now
	}
	b.level -= float64(n)
	if b.level >= 0 {
		return 0
	}
	return time.Duration(-b.level / b.rate * float64(time.Second))
}
