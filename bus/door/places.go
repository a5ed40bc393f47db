package door

import (
	"container/list"
	"sync"
)

// places are the sockets of one listener.
type places struct {
	l Places

	mu        sync.Mutex
	sockets   map[*bridge]*list.Element // mu; the element is nil once it has authenticated
	strangers *list.List                // mu; of *bridge, the oldest first
	addresses map[string]*counts        // mu
}

type counts struct{ sockets, strangers int }

func newPlaces(l Places) *places {
	return &places{l: l, sockets: map[*bridge]*list.Element{}, strangers: list.New(), addresses: map[string]*counts{}}
}

// take gives b a place among the strangers, or returns false where there is none. The oldest
// stranger in its way gives up its own and is returned, to be closed.
func (p *places) take(b *bridge) (oldest *bridge, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.addresses[b.address]
	if a == nil {
		a = &counts{}
	}
	if full(len(p.sockets), p.l.Sockets) || full(a.sockets, p.l.PerAddress) {
		return nil, false
	}
	switch {
	case full(a.strangers, p.l.StrangersPerAddress):
		for e := p.strangers.Front(); e != nil && oldest == nil; e = e.Next() {
			if x := e.Value.(*bridge); x.address == b.address {
				oldest = x
			}
		}
	case full(p.strangers.Len(), p.l.Strangers):
		oldest = p.strangers.Front().Value.(*bridge)
	}
	if oldest != nil {
		p.drop(oldest)
	}
	p.addresses[b.address] = a
	a.sockets++
	a.strangers++
	p.sockets[b] = p.strangers.PushBack(b)
	return oldest, true
}

func full(n, limit int) bool { return limit > 0 && n >= limit }

// known takes b out of the strangers; false if it has no place any more.
func (p *places) known(b *bridge) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.sockets[b]
	if !ok {
		return false
	}
	if e != nil {
		p.strangers.Remove(e)
		p.addresses[b.address].strangers--
		p.sockets[b] = nil
	}
	return true
}

// leave gives the place of b back.
func (p *places) leave(b *bridge) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(b)
}

// drop is leave. mu is held.
func (p *places) drop(b *bridge) {
	e, ok := p.sockets[b]
	if !ok {
		return
	}
	delete(p.sockets, b)
	a := p.addresses[b.address]
	if a.sockets--; e != nil {
		p.strangers.Remove(e)
		a.strangers--
	}
	if a.sockets == 0 {
		delete(p.addresses, b.address)
	}
}

func (p *places) all() []*bridge {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*bridge, 0, len(p.sockets))
	for b := range p.sockets {
		out = append(out, b)
	}
	return out
}

func (p *places) counts() (sockets, strangers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sockets), p.strangers.Len()
}
