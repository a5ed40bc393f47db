package artifact

import (
	"strconv"
	"testing"
)

func TestSentIsBounded(t *testing.T) {
	s := newSent()
	for i := range 2 * maxSent {
		s.add("h", strconv.Itoa(i))
		s.add("h", strconv.Itoa(i))
	}
	if s.has("h", strconv.Itoa(maxSent-1)) || !s.has("h", strconv.Itoa(maxSent)) || !s.has("h", strconv.Itoa(2*maxSent-1)) || s.has("i", strconv.Itoa(maxSent)) {
		t.Error("not the last of one holder")
	}
	for i := range maxSenders - 1 {
		s.add(strconv.Itoa(i), "x")
	}
	s.add("h", "x") // heard of again
	s.add("new", "x")
	if s.has("0", "x") || !s.has("1", "x") || !s.has("h", "x") || len(s.holders) != maxSenders || s.order.Len() != maxSenders {
		t.Errorf("%d holders", len(s.holders))
	}
}
