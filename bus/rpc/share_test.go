package rpc

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestNobodyTakesThePlacesOfOthers(t *testing.T) {
	s := newShare(256)
	took := func(id, family string, most int) (n int) {
		for range most {
			if s.enter(id, family) {
				n++
			}
		}
		return n
	}
	if n := took("a", "fa", 1000); n != 96 {
		t.Errorf("one holder took %d", n)
	}
	for i := range 10 {
		took(fmt.Sprint("a", i), "fa", 1000)
	}
	if n := s.families["fa"]; n != 160 {
		t.Errorf("one family took %d", n)
	}
	if n := took("b", "fb", 10); n != 10 {
		t.Errorf("another got %d of 10", n)
	}
	if n := took("c", "", 300); n != 256 {
		t.Errorf("components got %d", n)
	}
	if n := newShare(1); !n.enter("x", "y") || n.enter("z", "w") {
		t.Error("a single place")
	}
}

// Whatever comes and goes, bounds hold and nothing is left in the end.
func TestSharesBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShare(rapid.IntRange(1, 20).Draw(t, "places"))
		type place struct{ id, family string }
		var in []place
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if len(in) > 0 && rapid.Bool().Draw(t, "leave") {
				i := rapid.IntRange(0, len(in)-1).Draw(t, "who")
				s.leave(in[i].id, in[i].family)
				in = append(in[:i], in[i+1:]...)
				continue
			}
			family := rapid.SampledFrom([]string{"", "f", "g"}).Draw(t, "family")
			p := place{family + rapid.SampledFrom([]string{"1", "2"}).Draw(t, "id"), family}
			if s.enter(p.id, p.family) {
				in = append(in, p)
			}
			if s.holders > s.all || s.components > s.all {
				t.Fatalf("%d and %d of %d", s.holders, s.components, s.all)
			}
		}
		for _, p := range in {
			s.leave(p.id, p.family)
		}
		if s.holders+s.components+len(s.ids)+len(s.families) != 0 {
			t.Fatalf("left: %+v", s)
		}
	})
}
