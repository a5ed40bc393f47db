// Package trail reads stream AUDIT: Copy brings it to a backend, at least once and in order,
// from the backend's own cursor; Read gives it to a holder who may read it. Both read
// through consumers of their own, so neither holds up the stream nor each other.
package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/services/audit/internal/backend"
)

const (
	// batch bounds the records written together, and those held in memory.
	batch = 1000
	// forgotten is after how long the server drops the consumer of a reader that is gone.
	forgotten = 30 * time.Second
)

// Copier copies the stream to one backend.
type Copier struct {
	o       Options
	records prometheus.Counter
	lag     prometheus.Gauge
	cursor  atomic.Uint64
}

// Options of a Copier.
type Options struct {
	JS      jetstream.JetStream
	Backend backend.Backend
	// Name of the backend, as a label of its series.
	Name    string
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// NewCopier registers the series of a backend.
func NewCopier(o Options) (*Copier, error) {
	labels := prometheus.Labels{"backend": o.Name}
	c := &Copier{
		o:       o,
		records: prometheus.NewCounter(prometheus.CounterOpts{Name: "solo_audit_records_total", Help: "Audit records copied to a backend.", ConstLabels: labels}),
		lag:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "solo_audit_lag_records", Help: "Audit records that a backend does not have yet.", ConstLabels: labels}),
	}
	c.cursor.Store(o.Backend.Cursor())
	return c, errors.Join(o.Metrics.Register(c.records), o.Metrics.Register(c.lag))
}

// Cursor is the last sequence that the backend has made durable.
func (c *Copier) Cursor() uint64 { return c.cursor.Load() }

// Last is the last sequence of the stream.
func Last(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	s, err := js.Stream(ctx, stream.Audit)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream.Audit, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Copy follows the stream until ctx ends. A backend that fails is tried again, and what was
// read meanwhile waits: the stream goes on without it. The error is that the stream cannot
// be read, or ends before the backend's cursor, so that it is not the one that was copied.
func (c *Copier) Copy(ctx context.Context) error {
	last, err := Last(ctx, c.o.JS)
	if err != nil {
		return err
	}
	if last < c.Cursor() {
		return fmt.Errorf("the copy on %s has audit records up to %d, the stream ends at %d: they do not belong together, or records were lost", c.o.Name, c.Cursor(), last)
	}
	in := make(chan jetstream.Msg, batch)
	stop, err := consume(ctx, c.o.JS, c.Cursor(), in, c.o.Log)
	if err != nil {
		return err
	}
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-in:
			records, pending, err := c.gather(m, in)
			if err != nil {
				return err
			}
			if !c.append(ctx, records) {
				return nil
			}
			c.lag.Set(float64(pending))
		}
	}
}

// gather takes what else has arrived.
func (c *Copier) gather(m jetstream.Msg, in <-chan jetstream.Msg) (records []backend.Record, pending uint64, err error) {
	next := c.Cursor() + 1
	for {
		meta, err := m.Metadata()
		if err != nil {
			return nil, 0, fmt.Errorf("a message of stream %s: %w", stream.Audit, err)
		}
		if seq := meta.Sequence.Stream; seq > next {
			c.o.Log.Error("audit records are missing from the stream", "from", next, "to", seq-1)
		}
		next = meta.Sequence.Stream + 1
		records = append(records, backend.Record{Sequence: meta.Sequence.Stream, Subject: m.Subject(), Stored: meta.Timestamp, Data: m.Data()})
		if pending = meta.NumPending; len(records) == batch {
			return records, pending, nil
		}
		select {
		case m = <-in:
		default:
			return records, pending, nil
		}
	}
}

// append repeats until the records are durable; false when ctx ended before.
func (c *Copier) append(ctx context.Context, records []backend.Record) bool {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		before := c.Cursor()
		err := c.o.Backend.Append(ctx, records)
		c.cursor.Store(c.o.Backend.Cursor())
		c.records.Add(float64(c.Cursor() - before))
		if err == nil {
			return true
		}
		c.lag.Set(float64(records[len(records)-1].Sequence - c.Cursor()))
		c.o.Log.Error("audit records cannot be written", "backend", c.o.Name, "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// consume delivers the stream after a sequence into a channel, in order and without gaps of
// its own making, until stop is called.
func consume(ctx context.Context, js jetstream.JetStream, after uint64, out chan<- jetstream.Msg, log *slog.Logger) (stop func(), err error) {
	cons, err := js.OrderedConsumer(ctx, stream.Audit, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, InactiveThreshold: forgotten,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream.Audit, err)
	}
	done, cancel := context.WithCancel(ctx)
	cc, err := cons.Consume(func(m jetstream.Msg) {
		select {
		case out <- m:
		case <-done.Done():
		}
	}, jetstream.PullMaxMessages(batch), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		log.Warn("reading the audit stream", "error", err)
	}))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("stream %s: %w", stream.Audit, err)
	}
	return func() {
		cancel()
		cc.Stop()
		<-cc.Closed()
	}, nil
}
