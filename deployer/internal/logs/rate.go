package logs

import (
	"strings"
	"time"

	"golang.org/x/time/rate"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// What a namespace may write: bytes a second as they stand in the stream, and at once. All services
// share the stream, whose oldest lines go first.
const (
	spaceRate  = 256 << 10
	spaceBurst = 4 << 20
	// lineBytes is what a line takes in the stream beyond its text.
	lineBytes = 256
	// tellEvery is how often it is told at most that lines of a service are missing.
	tellEvery = time.Second
)

// budget bounds what the services of one namespace write.
type budget struct {
	tokens *rate.Limiter
	over   map[string]*gap // services whose lines were refused and have not been told so
}

// gap is a hole in a service's log.
type gap struct {
	lines uint64
	last  *solov1.LogRecord // the newest line in it
}

func newBudget() *budget {
	return &budget{tokens: rate.NewLimiter(spaceRate, spaceBurst), over: map[string]*gap{}}
}

// take tells whether a line may be written now, and counts it as missing if not.
func (b *budget) take(r *solov1.LogRecord, now time.Time) bool {
	n, g := cost(r), b.over[r.GetService()]
	if g != nil {
		n += 2 * lineBytes // the line that tells of the hole
	}
	if b.tokens.AllowN(now, n) {
		return true
	}
	if g == nil {
		g = &gap{}
		b.over[r.GetService()] = g
	}
	g.lines++
	g.last = r
	return false
}

// idle tells whether nothing is known that a new budget does not know.
func (b *budget) idle(now time.Time) bool {
	return len(b.over) == 0 && b.tokens.TokensAt(now) >= spaceBurst
}

// cost is what a line takes in the stream: control characters and quotes grow in its encoding.
func cost(r *solov1.LogRecord) int {
	n := lineBytes + len(r.GetLine())
	for i := range len(r.GetLine()) {
		switch c := r.GetLine()[i]; {
		case c < ' ':
			n += 5
		case c == '"' || c == '\\':
			n++
		}
	}
	return n
}

// spaceOf is the namespace of a service.
func spaceOf(service string) string {
	ns, _, _ := strings.Cut(service, "/")
	return ns
}
