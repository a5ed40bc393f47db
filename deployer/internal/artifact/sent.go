package artifact

import (
	"container/list"
	"slices"
	"sync"
)

// Bounds of what is remembered of who sent what. Whoever is forgotten sends again.
const (
	maxSenders = 4096
	maxSent    = 64
)

// sent remembers which holders of a handle have shown that they have an artifact's bytes, by sending
// them to this process. Knowing a digest is no right to what it names.
type sent struct {
	mu      sync.Mutex               // guards what follows
	holders map[string]*list.Element // of order
	order   *list.List               // of *sender, the one not heard of for longest in front
}

type sender struct {
	holder  string
	digests []string // the oldest first
}

func newSent() *sent { return &sent{holders: map[string]*list.Element{}, order: list.New()} }

func (s *sent) add(holder, sha string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.holders[holder]
	if e == nil {
		e = s.order.PushBack(&sender{holder: holder})
		s.holders[holder] = e
	}
	s.order.MoveToBack(e)
	x := e.Value.(*sender)
	if !x.has(sha) {
		x.digests = append(x.digests, sha)
		x.digests = x.digests[max(0, len(x.digests)-maxSent):]
	}
	if len(s.holders) > maxSenders {
		delete(s.holders, s.order.Remove(s.order.Front()).(*sender).holder)
	}
}

func (s *sent) has(holder, sha string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.holders[holder]
	return e != nil && e.Value.(*sender).has(sha)
}

func (x *sender) has(sha string) bool { return slices.Contains(x.digests, sha) }
