package control

import (
	"slices"
	"time"
)

// Bounds of how many services are brought up at a time.
const (
	// settling bounds those that may be done in a moment.
	settling = 16
	// settlingLate bounds those taken up whose last start was slow or failed. They go last, and have
	// places of their own, so that they hold back nobody.
	settlingLate = 8
	// settlingSpace bounds those of one namespace.
	settlingSpace = 2
	// slowStart is how long a service may take before it holds its place no longer: it goes on, and
	// counts in its namespace alone.
	slowStart = 2 * time.Second
)

// place is what a service holds while it is looked at.
type place uint8

const (
	promptPlace place = iota
	latePlace
	noPlace // it has taken long
)

// schedule decides which service is looked at next: namespaces take turns, and within one those that
// start well go first. It is used by one goroutine.
type schedule struct {
	spaces map[string]*space
	turn   []string // namespaces with services that wait, the next in front
	active map[string]place
	held   map[place]int   // how many services hold a place
	slow   map[string]bool // services whose last start was slow or failed
}

// space is one namespace's part of a schedule; it is there while a service waits or is active.
type space struct {
	prompt, late []string // that wait
	active       int
}

func newSchedule() *schedule {
	return &schedule{spaces: map[string]*space{}, active: map[string]place{}, held: map[place]int{}, slow: map[string]bool{}}
}

// add has a service looked at, once however often it is added before its turn.
func (s *schedule) add(name string, late bool) {
	ns := namespaceOf(name)
	sp := s.spaces[ns]
	if sp == nil {
		sp = &space{}
		s.spaces[ns] = sp
	}
	if slices.Contains(sp.prompt, name) || slices.Contains(sp.late, name) {
		return
	}
	if !slices.Contains(s.turn, ns) {
		s.turn = append(s.turn, ns)
	}
	if late || s.slow[name] {
		sp.late = append(sp.late, name)
	} else {
		sp.prompt = append(sp.prompt, name)
	}
}

// next takes up a service, if one waits that may be; done must be called when it has been looked at.
func (s *schedule) next() (name string, ok bool) {
	for p, bound := range []int{promptPlace: settling, latePlace: settlingLate} {
		if s.held[place(p)] >= bound {
			continue
		}
		for i, ns := range s.turn {
			sp := s.spaces[ns]
			list := &sp.prompt
			if place(p) == latePlace {
				list = &sp.late
			}
			j := slices.IndexFunc(*list, func(n string) bool { _, busy := s.active[n]; return !busy })
			if sp.active >= settlingSpace || j < 0 {
				continue
			}
			name = (*list)[j]
			*list = slices.Delete(*list, j, j+1)
			s.turn = slices.Delete(s.turn, i, i+1)
			if len(sp.prompt)+len(sp.late) > 0 {
				s.turn = append(s.turn, ns)
			}
			sp.active++
			s.active[name] = place(p)
			s.held[place(p)]++
			return name, true
		}
	}
	return "", false
}

// aged says that looking at a service takes long: its place is free for another, unless it was known
// to be slow.
func (s *schedule) aged(name string) {
	if p, ok := s.active[name]; ok && p == promptPlace {
		s.held[p]--
		s.active[name] = noPlace
		s.held[noPlace]++
	}
}

// done ends the look at a service; slow says that it did not start, or not soon.
func (s *schedule) done(name string, slow bool) {
	s.held[s.active[name]]--
	delete(s.active, name)
	delete(s.slow, name)
	if slow {
		s.slow[name] = true
	}
	ns := namespaceOf(name)
	sp := s.spaces[ns]
	if sp.active--; sp.active == 0 && len(sp.prompt)+len(sp.late) == 0 {
		delete(s.spaces, ns)
	}
}
