package authority

import (
	"sync"
	"time"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
)

const (
	// bytesPerSecond and bytesAtOnce bound the records that all that descend from one grant of the root
	// have made: every gate keeps each record in memory, and the chain keeps it for ever. A plain grant is
	// about 300 bytes, the largest 33 KiB.
	bytesPerSecond = 64 << 10
	bytesAtOnce    = 8 << 20
	// recordBytes is what a record takes beside its rules and label.
	recordBytes = 256
	// paceSweep is how many families are counted before those that have all of theirs left are forgotten.
	paceSweep = 1024
)

// pace bounds how fast families of holders grant. The root is not held back.
type pace struct {
	mu sync.Mutex
	m  map[string]*rate.Limiter // mu; by family
}

func newPace() *pace { return &pace{m: map[string]*rate.Limiter{}} }

// take counts one grant of a holder, or says when to try again.
func (p *pace) take(t *gate.Table, holder string, want terms) error {
	v, ok := t.Get(holder)
	if ok && v.Record.GetParent() == "" {
		return nil
	}
	family := t.Family(holder)
	p.mu.Lock()
	l := p.m[family]
	if l == nil {
		if len(p.m) >= paceSweep {
			for k, l := range p.m {
				if l.Tokens() >= bytesAtOnce {
					delete(p.m, k)
				}
			}
		}
		l = rate.NewLimiter(bytesPerSecond, bytesAtOnce)
		p.m[family] = l
	}
	p.mu.Unlock()
	r := l.ReserveN(time.Now(), want.size())
	if wait := r.Delay(); wait > 0 {
		r.Cancel()
		return fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%s and what descends from it grant more than %d KiB of rules a second", family, bytesPerSecond>>10).
			Retry(wait).With("holder", holder).With("object", family)
	}
	return nil
}

// size is about how many bytes the record of a grant takes.
func (t terms) size() int {
	n := recordBytes + len(t.label)
	for _, r := range t.rules.Strings() {
		n += len(r)
	}
	return n
}
