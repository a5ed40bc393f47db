package holder

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// maxPeers bounds the addresses counted apart; beyond it all others are counted together.
const maxPeers = 4096

// peers counts refused handles by peer address, so that guessing is slow. An address that is
// refused too often is only kept from connecting new handles; what is connected goes on.
type peers struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex
	by    map[string]*rate.Limiter // mu
	other *rate.Limiter
}

func newPeers(perSecond float64) *peers {
	p := &peers{rate: rate.Limit(perSecond), burst: max(1, int(perSecond*2)), by: map[string]*rate.Limiter{}}
	p.other = rate.NewLimiter(p.rate, p.burst)
	return p
}

// place is what an address is counted as: itself, or its /64.
func place(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return addr
	}
	a := ap.Addr().Unmap()
	if a.Is4() {
		return a.String()
	}
	prefix, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a.String()
	}
	return prefix.String()
}

func (p *peers) limiter(addr string, create bool) *rate.Limiter {
	key := place(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.by[key]
	switch {
	case l != nil:
		return l
	case !create && len(p.by) >= maxPeers:
		return p.other
	case !create:
		return nil
	}
	if len(p.by) >= maxPeers {
		for k, l := range p.by {
			if l.Tokens() >= float64(p.burst) {
				delete(p.by, k) // it has been good for long enough to be forgotten
			}
		}
		if len(p.by) >= maxPeers {
			return p.other
		}
	}
	l = rate.NewLimiter(p.rate, p.burst)
	p.by[key] = l
	return l
}

// may tells whether an address may present another unknown handle.
func (p *peers) may(addr string) bool {
	l := p.limiter(addr, false)
	return l == nil || l.Tokens() >= 1
}

// refused counts one.
func (p *peers) refused(addr string) { p.limiter(addr, true).Allow() }
