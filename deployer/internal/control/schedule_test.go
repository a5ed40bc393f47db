package control

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func take(s *schedule) (names []string) {
	for name, ok := s.next(); ok; name, ok = s.next() {
		names = append(names, name)
	}
	return names
}

// Services of one namespace that take for ever to start leave all others their places.
func TestAttackSlowStartersHoldBackEveryone(t *testing.T) {
	s := newSchedule()
	for i := range 100 {
		s.add(fmt.Sprintf("evil/s%d", i), false)
	}
	s.add("acme/one", false)
	if got := take(s); len(got) != settlingSpace+1 || got[1] != "acme/one" {
		t.Fatalf("%v", got)
	}

	// With many namespaces they hold the places for slowStart at most.
	s = newSchedule()
	for i := range 2 * settling {
		s.add(fmt.Sprintf("evil%d/s", i), false)
	}
	s.add("acme/one", false)
	first := take(s)
	if len(first) != settling {
		t.Fatalf("%d at a time", len(first))
	}
	for _, name := range first {
		s.aged(name)
	}
	second := take(s)
	for _, name := range second {
		s.aged(name)
	}
	if got := take(s); len(second) != settling || len(got) != 1 || got[0] != "acme/one" {
		t.Fatalf("%d, then %v", len(second), got)
	}
	// And once they are known they go last, though they were there first.
	for _, name := range append(first, second...) {
		s.done(name, true)
		s.add(name, false)
	}
	s.done("acme/one", false)
	s.add("acme/one", false)
	if got := take(s); len(got) != settlingLate+1 || got[0] != "acme/one" {
		t.Fatalf("%v", got)
	}
}

func TestScheduleLooksAtEverythingOnceAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSchedule()
		due, active := map[string]bool{}, map[string]int{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				name := fmt.Sprintf("%c/%d", rapid.RuneFrom([]rune("abcdefghijklmnopqrst")).Draw(t, "ns"), rapid.IntRange(0, 4).Draw(t, "n"))
				s.add(name, rapid.Bool().Draw(t, "late"))
				due[name] = true
			},
			"next": func(t *rapid.T) {
				name, ok := s.next()
				if !ok {
					return
				}
				if !due[name] || active[name] > 0 {
					t.Fatalf("%s is taken up: due %t, active %d", name, due[name], active[name])
				}
				delete(due, name)
				active[name]++
			},
			"aged": func(t *rapid.T) {
				for name := range active {
					s.aged(name)
					return
				}
			},
			"done": func(t *rapid.T) {
				for name := range active {
					delete(active, name)
					s.done(name, rapid.Bool().Draw(t, "slow"))
					return
				}
			},
			"": func(t *rapid.T) {
				spaces := map[string]int{}
				for name := range active {
					spaces[namespaceOf(name)]++
				}
				for ns, n := range spaces {
					if n > settlingSpace {
						t.Fatalf("%d of %s at a time", n, ns)
					}
				}
				if s.held[promptPlace] > settling || s.held[latePlace] > settlingLate || s.held[promptPlace]+s.held[latePlace]+s.held[noPlace] != len(active) {
					t.Fatalf("%v of %d", s.held, len(active))
				}
			},
		})
		for len(due)+len(active) > 0 { // all come to their turn
			for name := range active {
				delete(active, name)
				s.done(name, false)
			}
			for _, name := range take(s) {
				delete(due, name)
				active[name]++
			}
		}
		if len(s.spaces)+len(s.turn) > 0 {
			t.Fatalf("%v %v are left", s.spaces, s.turn)
		}
	})
}
