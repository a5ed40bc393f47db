package fence

import "sync"

// turns lets connections of one id be checked one after the other, so that a holder who connects very
// often holds up itself and nobody else. Its lock is a leaf.
type turns struct {
	mu sync.Mutex
	m  map[string]*turn // mu
}

type turn struct {
	sync.Mutex
	users int // turns.mu
}

// take waits for an id's turn; call the result when it is over.
func (t *turns) take(id string) (done func()) {
	t.mu.Lock()
	x := t.m[id]
	if x == nil {
		x = &turn{}
		t.m[id] = x
	}
	x.users++
	t.mu.Unlock()
	x.Lock()
	return func() {
		x.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if x.users--; x.users == 0 {
			delete(t.m, id)
		}
	}
}
