package embed

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"
)

// Violation is something that the server refused a connection to do.
type Violation struct {
	// CID is the server's number of the connection.
	CID uint64
	// Subject that was refused: published, subscribed, or asked to be answered at.
	Subject string
	// Subscribe is true for subscriptions.
	Subscribe bool
	// Reply is true when it was the reply subject.
	Reply bool
}

// Lines a second that the server may write to the log, and how many at once. What is beyond
// is counted, and the count stands in the next line that passes.
const (
	linesPerSecond = 10
	linesAtOnce    = 50
)

// logger passes the server's log on to slog and takes violations out of it: the server tells
// of them in no other way.
type logger struct {
	log       *slog.Logger
	violation func(Violation)
	limit     *rate.Limiter

	mu      sync.Mutex
	dropped int    // mu
	last    string // mu; the last fatal line
}

var _ server.Logger = (*logger)(nil)

func newLogger(log *slog.Logger, v func(Violation)) *logger {
	return &logger{log: log.With("part", "bus"), violation: v, limit: rate.NewLimiter(linesPerSecond, linesAtOnce)}
}

// Noticef writes what the server finds notable: for Solo, that is detail.
func (l *logger) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

// Warnf writes a warning.
func (l *logger) Warnf(format string, v ...any) { l.write(slog.LevelWarn, format, v) }

// Errorf writes what went wrong with a connection or a store; violations go another way.
func (l *logger) Errorf(format string, v ...any) {
	if x, ok := parseViolation(fmt.Sprintf(format, v...)); ok {
		if l.violation != nil {
			l.violation(x)
		}
		return
	}
	l.write(slog.LevelWarn, format, v)
}

// Fatalf keeps why the server cannot go on.
func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	l.last = withoutSeeds(fmt.Sprintf(format, v...))
	l.mu.Unlock()
	l.write(slog.LevelError, format, v)
}

// Debugf and Tracef are never enabled.
func (l *logger) Debugf(string, ...any) {}

// Tracef is never enabled.
func (l *logger) Tracef(string, ...any) {}

func (l *logger) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *logger) write(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if !l.log.Enabled(ctx, level) {
		return
	}
	l.mu.Lock()
	if !l.limit.Allow() {
		l.dropped++
		l.mu.Unlock()
		return
	}
	n := l.dropped
	l.dropped = 0
	l.mu.Unlock()
	var attrs []slog.Attr
	if n > 0 {
		attrs = append(attrs, slog.Int("lines_dropped", n))
	}
	l.log.LogAttrs(ctx, level, withoutSeeds(fmt.Sprintf(format, v...)), attrs...)
}

// seedPattern is how seeds of all kinds look.
var seedPattern = regexp.MustCompile(`S[A-Z][A-Z2-7]{56}`)

// withoutSeeds takes seeds out of a line. The server repeats what a client says of itself, and some
// give a handle for their name.
func withoutSeeds(line string) string { return seedPattern.ReplaceAllString(line, "S...") }

// The client's own words (its name) come before the violation, so the last match is the
// server's; the number of the connection comes first of all.
var (
	cidPattern       = regexp.MustCompile(`^\S+ - cid:(\d+)`)
	violationPattern = regexp.MustCompile(` - (Publish|Subscription) Violation(?: Too Many Tokens)? - (Subject|Reply) ("(?:[^"\\]|\\.)*")`)
)

func parseViolation(line string) (v Violation, ok bool) {
	if !strings.Contains(line, "Violation - ") && !strings.Contains(line, "Violation Too Many") {
		return v, false
	}
	cid := cidPattern.FindStringSubmatch(line)
	all := violationPattern.FindAllStringSubmatch(line, -1)
	if cid == nil || all == nil {
		return v, false
	}
	m := all[len(all)-1]
	var err error
	if v.CID, err = strconv.ParseUint(cid[1], 10, 64); err != nil {
		return v, false
	}
	if v.Subject, err = strconv.Unquote(m[3]); err != nil {
		return v, false
	}
	v.Subscribe, v.Reply = m[1] == "Subscription", m[2] == "Reply"
	return v, true
}
