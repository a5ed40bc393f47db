package logs

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	// batch is how many lines of one service go before another has its turn. The last of them waits
	// for the stream, which sets the pace.
	batch = 128
	// ackTimeout bounds that wait.
	ackTimeout = 2 * time.Second
)

// Publisher takes lines from anywhere and publishes them in Run.
type Publisher struct {
	js      jetstream.JetStream
	log     *slog.Logger
	queue   *queue
	dropped prometheus.Counter
}

// NewPublisher publishes over js's connection.
func NewPublisher(js jetstream.JetStream, log *slog.Logger, reg prometheus.Registerer) *Publisher {
	p := &Publisher{js: js, log: log, queue: newQueue(), dropped: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "solo_log_lines_dropped_total", Help: "Lines of instances that were not kept, because they came faster than the log takes them or their namespace may write.",
	})}
	reg.MustRegister(p.dropped)
	return p
}

// Add takes a line and never waits.
func (p *Publisher) Add(r *solov1.LogRecord) {
	if n := p.queue.add(r); n > 0 {
		p.dropped.Add(float64(n))
	}
}

// Run publishes until ctx ends, and then what is left, for a moment at most.
func (p *Publisher) Run(ctx context.Context) {
	tell := time.NewTicker(tellEvery)
	defer tell.Stop()
	for {
		select {
		case now := <-tell.C:
			p.queue.tell(now)
		default:
		}
		if p.round(ctx) {
			continue
		}
		select {
		case <-ctx.Done():
			p.queue.tell(time.Now())
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			for last.Err() == nil && p.round(last) {
				continue
			}
			return
		case <-p.queue.wake:
		case now := <-tell.C:
			p.queue.tell(now)
		}
	}
}

// round publishes one service's turn; false when there was nothing.
func (p *Publisher) round(ctx context.Context) bool {
	turn := p.queue.take(batch)
	msgs := make([]*nats.Msg, 0, len(turn))
	for _, r := range turn {
		m, err := message(r)
		if err != nil {
			p.log.Warn("a log line cannot be published", "service", r.GetService(), "error", err)
			continue
		}
		msgs = append(msgs, m)
	}
	for i, m := range msgs {
		for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			if p.send(ctx, m, i == len(msgs)-1) == nil {
				break
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				p.dropped.Add(float64(len(msgs) - i))
				return false
			case <-t.C:
			}
		}
	}
	return len(turn) > 0
}

func (p *Publisher) send(ctx context.Context, m *nats.Msg, acked bool) error {
	if !acked {
		return p.js.Conn().PublishMsg(m)
	}
	// A line on its way is not dropped because the publisher is told to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	_, err := p.js.PublishMsg(ctx, m)
	return err
}

func message(r *solov1.LogRecord) (*nats.Msg, error) {
	s, err := subject.ParseService(r.GetService())
	if err != nil {
		return nil, err
	}
	if !validToken(r.GetInstance()) {
		return nil, fmt.Errorf("%q cannot be an instance", r.GetInstance())
	}
	b, err := protojson.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subject.Log(s, r.GetInstance()), Data: b}, nil
}

// validToken tells whether s can be one token of a subject.
func validToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '.' || r == '*' || r == '>' })
}

func gapLine(n uint64) string {
	if n == 1 {
		return "1 line is missing here: it came faster than the log takes lines"
	}
	return fmt.Sprintf("%d lines are missing here: they came faster than the log takes lines", n)
}
