package door

import (
	"testing"
	"time"
)

// Places of requests to a consumer come back with time, not with answers, in the order in which
// they were taken, and each once.
func TestPulls(t *testing.T) {
	i, at := newInbox(), time.Unix(1000, 0)
	i.subscribe([]byte("1"), []byte("_INBOX.a.>"))
	i.subscribe([]byte("2"), []byte("_INBOX.b"))
	for n := range 30 { // three a second
		i.pull([]byte("_INBOX.b"), at.Add(time.Duration(n)*time.Second/3))
	}
	i.pull([]byte("_INBOX.a.1"), at)
	i.pull([]byte("_INBOX.a.2"), at.Add(time.Hour))
	if len(i.pulls["_INBOX.b"]) != 10 {
		t.Errorf("%d entries", len(i.pulls["_INBOX.b"]))
	}
	if n := i.delivered([]byte("2"), []byte("_INBOX.b")); n != 0 {
		t.Errorf("an answer gave %d back", n)
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {1500 * time.Millisecond, 4}, {1500 * time.Millisecond, 0}, {5500 * time.Millisecond, 12}} {
		if n := i.expire(at.Add(c.after)); n != c.want {
			t.Errorf("after %s: %d, want %d", c.after, n, c.want)
		}
	}
	if n := i.unsubscribe([]byte("2"), 0); n != 15 {
		t.Errorf("its end gave %d back", n)
	}
	if n := i.unsubscribe([]byte("1"), 0); n != 1 || len(i.pulls) != 0 {
		t.Errorf("its end gave %d back, %d are left", n, len(i.pulls))
	}
	i.pull([]byte("_INBOX.c"), at)
	if n := i.clear(); n != 1 || i.clear() != 0 {
		t.Error("clear:", n)
	}
}
