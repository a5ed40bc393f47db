// Package logs brings what instances write into the stream LOGS and reads it back.
//
// Publishing never holds up an instance: each service has a bounded queue, and when it is full the
// oldest lines go, counted, with a line that says how many are missing. Services take turns, so that
// one that writes without end does not silence the others, and a namespace that writes more than its
// rate loses its newest lines, so that it does not push out the others' lines. What was published survives the deployer,
// not a power cut. Reading is by tail and follow, in the order of the stream.
package logs

import (
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Bounds of one service's queue.
const (
	maxLines = 2048
	maxBytes = 1 << 20
)

// queue holds lines by service.
type queue struct {
	mu       sync.Mutex         // guards what follows
	services map[string]*lines  // only those that have lines
	turn     []string           // services in the order in which they are served
	spaces   map[string]*budget // by namespace
	wake     chan struct{}
}

type lines struct {
	list    []*solov1.LogRecord
	bytes   int
	dropped uint64
	gap     *solov1.LogRecord // the newest line dropped
}

func newQueue() *queue {
	return &queue{services: map[string]*lines{}, spaces: map[string]*budget{}, wake: make(chan struct{}, 1)}
}

func (q *queue) add(r *solov1.LogRecord) (dropped int) {
	q.mu.Lock()
	b := q.spaces[spaceOf(r.GetService())]
	if b == nil {
		b = newBudget()
		q.spaces[spaceOf(r.GetService())] = b
	}
	if !b.take(r, time.Now()) {
		q.mu.Unlock()
		return 1
	}
	q.tellOne(b, r.GetService())
	l := q.lines(r.GetService())
	l.list = append(l.list, r)
	l.bytes += len(r.GetLine())
	for len(l.list) > maxLines || l.bytes > maxBytes && len(l.list) > 1 {
		l.gap = l.list[0]
		l.bytes -= len(l.gap.GetLine())
		l.list[0] = nil
		l.list = l.list[1:]
		l.dropped++
		dropped++
	}
	q.mu.Unlock()
	q.awake()
	return dropped
}

func (q *queue) awake() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// lines are those of a service, which gets a turn. q.mu is held.
func (q *queue) lines(service string) *lines {
	l := q.services[service]
	if l == nil {
		l = &lines{}
		q.services[service] = l
		q.turn = append(q.turn, service)
	}
	return l
}

// tell has it said which services lack lines that were over their namespace's rate, and forgets the
// budgets of which nothing is left to know.
func (q *queue) tell(now time.Time) {
	q.mu.Lock()
	for ns, b := range q.spaces {
		for service := range b.over {
			q.tellOne(b, service)
		}
		if b.idle(now) {
			delete(q.spaces, ns)
		}
	}
	waits := len(q.turn) > 0
	q.mu.Unlock()
	if waits {
		q.awake()
	}
}

// tellOne puts a hole in a service's log before the lines that follow. q.mu is held.
func (q *queue) tellOne(b *budget, service string) {
	g := b.over[service]
	if g == nil {
		return
	}
	delete(b.over, service)
	l := q.lines(service)
	if n := len(l.list); n > 0 { // lines from before the hole
		l.list = append(l.list, missing(g.last, g.lines))
		l.bytes += len(l.list[n].GetLine())
		return
	}
	l.dropped += g.lines
	l.gap = g.last
}

// take returns up to n lines of the service whose turn it is, a gap told first; nothing when all is
// empty.
func (q *queue) take(n int) []*solov1.LogRecord {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turn) == 0 {
		return nil
	}
	name := q.turn[0]
	q.turn = q.turn[1:]
	l := q.services[name]
	var out []*solov1.LogRecord
	if l.dropped > 0 {
		out = append(out, missing(l.gap, l.dropped))
		l.dropped, l.gap = 0, nil
	}
	n = min(n, len(l.list))
	for _, r := range l.list[:n] {
		l.bytes -= len(r.GetLine())
		out = append(out, r)
	}
	clear(l.list[:n])
	if l.list = l.list[n:]; len(l.list) == 0 {
		delete(q.services, name)
	} else {
		q.turn = append(q.turn, name)
	}
	return out
}

// missing is the line that stands for lines that were dropped.
func missing(like *solov1.LogRecord, n uint64) *solov1.LogRecord {
	return &solov1.LogRecord{
		Time: timestamppb.Now(), Service: like.GetService(), Instance: like.GetInstance(), Stream: "log", Level: "warn",
		Line: gapLine(n),
	}
}
