package door

import (
	"bytes"
	"time"

	"github.com/solo-os/solo/proto/subject"
)

// PullTime is how long the server keeps the way back of a request to a consumer of the audit
// trail, from its last answer on, unless nobody listens for it any more. No answer is known to be
// the last, so each request keeps its place for as long.
const PullTime = time.Minute

// isPull tells whether a request goes to a consumer of the audit trail.
func isPull(subj []byte) bool { return bytes.HasPrefix(subj, []byte(pullPrefix)) }

const pullPrefix = "$JS." + subject.TrailDomain + subject.TrailServingNext

// pulls are the requests of one connection to a consumer, by reply subject, oldest first.
// Those of one second stand together, so that a reader that uses one inbox for ever costs little.
type pulls map[string][]pulled

type pulled struct {
	n     int
	until time.Time
}

func (p pulls) add(reply string, until time.Time) {
	all := p[reply]
	if last := len(all) - 1; last >= 0 && until.Sub(all[last].until) < time.Second {
		all[last].n++
		return
	}
	p[reply] = append(all, pulled{1, until})
}

// end forgets the requests whose answers go to a subject.
func (p pulls) end(reply string) (released int) {
	for _, x := range p[reply] {
		released += x.n
	}
	delete(p, reply)
	return released
}

// expire forgets the requests whose way back is gone.
func (p pulls) expire(now time.Time) (released int) {
	for reply, all := range p {
		from := 0
		// Those of one second end with the last of them.
		for ; from < len(all) && now.After(all[from].until.Add(time.Second)); from++ {
			released += all[from].n
		}
		if p[reply] = append(all[:0], all[from:]...); from == len(all) {
			delete(p, reply)
		}
	}
	return released
}

// clear forgets all.
func (p pulls) clear() (released int) {
	for reply := range p {
		released += p.end(reply)
	}
	return released
}
