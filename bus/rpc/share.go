package rpc

import "sync"

// share divides places among callers, so that no holder, and no holder together with all that it
// granted, can take the places of everybody else. Components have places of their own.
type share struct {
	// perID and perFamily bound what one holder, and all that descend from one grant of the root,
	// take at a time; perFamily is below all.
	perID, perFamily, all int

	mu         sync.Mutex
	ids        map[string]int // mu
	families   map[string]int // mu
	holders    int            // mu
	components int            // mu
}

// tooFewToShare is how many places are everybody's, because a part of them would be next to none.
const tooFewToShare = 8

// newShare divides n places: a holder may have three eighths of them, a family five eighths.
func newShare(n int) *share {
	s := &share{perID: n, perFamily: n, all: n, ids: map[string]int{}, families: map[string]int{}}
	if n > tooFewToShare {
		s.perID, s.perFamily = n*3/8, n*5/8
	}
	return s
}

// enter takes a place, or tells that there is none for this caller. family is empty for components.
func (s *share) enter(id, family string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if family == "" {
		if s.components >= s.all {
			return false
		}
		s.components++
		return true
	}
	if s.holders >= s.all || s.ids[id] >= s.perID || s.families[family] >= s.perFamily {
		return false
	}
	s.holders++
	s.ids[id]++
	s.families[family]++
	return true
}

// leave gives back what enter took.
func (s *share) leave(id, family string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if family == "" {
		s.components--
		return
	}
	s.holders--
	drop(s.ids, id)
	drop(s.families, family)
}

func drop(m map[string]int, k string) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}
