package door

import (
	"strings"
	"sync"
	"time"
)

// Bounds of what is remembered of one connection's subscriptions. A subscription beyond them
// works, and cannot be told that a call was refused.
const (
	maxRemembered  = 4096
	maxSID         = 32
	maxInboxLength = 256
	inboxPrefix    = "_INBOX."
)

// inbox knows where a connection listens for answers and which answers have not come.
type inbox struct {
	mu    sync.Mutex
	subs  map[string]*listening // mu; by SID
	calls map[string]*waiting   // mu; by reply subject
	pulls pulls                 // mu
}

// listening is a subscription to an inbox.
type listening struct {
	subject  string
	got, max int // messages so far, and when it ends by itself; 0 is never
}

// waiting is calls with one reply subject.
type waiting struct {
	n     int
	until time.Time
}

func newInbox() *inbox {
	return &inbox{subs: map[string]*listening{}, calls: map[string]*waiting{}, pulls: pulls{}}
}

// subscribe remembers a subscription to an inbox. A number in use keeps its first meaning, as
// it does at the server.
func (i *inbox) subscribe(sid, subject []byte) {
	if len(sid) > maxSID || len(subject) > maxInboxLength || !strings.HasPrefix(string(subject), inboxPrefix) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.subs[string(sid)]; !ok && len(i.subs) < maxRemembered {
		i.subs[string(sid)] = &listening{subject: string(subject)}
	}
}

// unsubscribe ends a subscription now or after max messages in all, and returns how many
// calls nobody waits for any more.
func (i *inbox) unsubscribe(sid []byte, max int) (released int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.subs[string(sid)]
	if l == nil {
		return 0
	}
	if max > l.got {
		l.max = max
		return 0
	}
	return i.end(string(sid), l)
}

// end forgets a subscription and the calls that only it waits for. mu is held.
func (i *inbox) end(sid string, l *listening) (released int) {
	delete(i.subs, sid)
	if !strings.ContainsAny(l.subject, "*>") {
		released = i.pulls.end(l.subject)
		if w := i.calls[l.subject]; w != nil {
			delete(i.calls, l.subject)
			released += w.n
		}
		return released
	}
	for reply := range i.pulls {
		if matches(l.subject, reply) {
			released += i.pulls.end(reply)
		}
	}
	for reply, w := range i.calls {
		if matches(l.subject, reply) {
			delete(i.calls, reply)
			released += w.n
		}
	}
	return released
}

// delivered notes a message to the client and returns how many calls it answers.
func (i *inbox) delivered(sid, subject []byte) (released int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if w := i.calls[string(subject)]; w != nil {
		released = 1
		if w.n--; w.n == 0 {
			delete(i.calls, string(subject))
		}
	}
	if l := i.subs[string(sid)]; l != nil {
		if l.got++; l.max > 0 && l.got >= l.max {
			released += i.end(string(sid), l)
		}
	}
	return released
}

// call notes a call that waits for an answer until then.
func (i *inbox) call(reply []byte, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	w := i.calls[string(reply)]
	if w == nil {
		w = &waiting{}
		i.calls[string(reply)] = w
	}
	w.n++
	w.until = until
}

// pull notes a request to a consumer, whose way back is kept until then.
func (i *inbox) pull(reply []byte, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pulls.add(string(reply), until)
}

// listener is the number of a subscription that hears the reply subject.
func (i *inbox) listener(reply string) (sid string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for sid, l := range i.subs {
		if matches(l.subject, reply) {
			return sid, true
		}
	}
	return "", false
}

// expire forgets calls that have waited for too long, and returns how many.
func (i *inbox) expire(now time.Time) (released int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	released = i.pulls.expire(now)
	for reply, w := range i.calls {
		if now.After(w.until) {
			delete(i.calls, reply)
			released += w.n
		}
	}
	return released
}

// clear forgets all calls, and returns how many.
func (i *inbox) clear() (released int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, w := range i.calls {
		released += w.n
	}
	clear(i.calls)
	released += i.pulls.clear()
	return released
}

// matches tells whether a pattern covers a literal subject.
func matches(pattern, subject string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		if p == ">" && !moreP {
			return subject != ""
		}
		s, restS, moreS := strings.Cut(subject, ".")
		if p != "*" && p != s || moreP != moreS {
			return false
		}
		if !moreP {
			return true
		}
		pattern, subject = restP, restS
	}
}
