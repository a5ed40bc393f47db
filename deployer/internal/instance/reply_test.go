package instance_test

import (
	"testing"

	"github.com/solo-os/solo/deployer/internal/instance"
)

func TestReplyIsBounded(t *testing.T) {
	r := &instance.Reply{Max: 4}
	for i, c := range []struct {
		in   string
		kept string
		over int
	}{{"ab", "ab", 0}, {"cd", "abcd", 0}, {"e", "", 5}, {"fg", "", 7}} {
		if n, err := r.Write([]byte(c.in)); n != len(c.in) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		if string(r.Bytes()) != c.kept || r.Over() != c.over {
			t.Errorf("%d: %q, over %d", i, r.Bytes(), r.Over())
		}
	}
	if s := (&instance.Crash{Message: "m"}).Error(); s != "m" {
		t.Errorf("got %q", s)
	}
}
