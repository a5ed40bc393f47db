// Package feed is the stream of lifecycle events: an Outbox that is its only writer, and Read.
//
// Events are published in the order in which they were added, each once, and stored when the
// batch's wait returns nil. The Outbox keeps at most a bounded number of batches in memory
// and repeats what fails; what is still unpublished when the process ends is lost, because
// events tell about registrations and are not the truth themselves.
package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	queueLength = 1024
	// publishTimeout bounds one try to publish.
	publishTimeout = 2 * time.Second
)

// Outbox publishes events.
type Outbox struct {
	js    jetstream.JetStream
	log   *slog.Logger
	queue chan batch

	published, lost prometheus.Counter
}

type batch struct {
	msgs []*nats.Msg
	done chan struct{}
}

// NewOutbox returns an Outbox; Run publishes what is added to it.
func NewOutbox(js jetstream.JetStream, log *slog.Logger, metrics prometheus.Registerer) *Outbox {
	o := &Outbox{
		js: js, log: log, queue: make(chan batch, queueLength),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "solo_events_published_total", Help: "Lifecycle events published."}),
		lost:      prometheus.NewCounter(prometheus.CounterOpts{Name: "solo_events_lost_total", Help: "Lifecycle events that could not be published."}),
	}
	metrics.MustRegister(o.published, o.lost)
	return o
}

// Check completes an event and tells whether it can be published: field is where it stands in
// the request, svc its service, or Nothing where the event itself names it.
func Check(field string, svc subject.Service, e *solov1.Event) error {
	named, err := subject.ParseService(e.GetService())
	switch {
	case e.GetService() == "" && svc != subject.Nothing():
		e.Service = svc.String()
	case err != nil:
		return fault.Invalid(field+".service", "%v", err)
	case svc != subject.Nothing() && named != svc:
		return fault.Invalid(field+".service", "%s is not %s", named, svc)
	}
	if !subject.ValidOp(e.GetType()) {
		return fault.Invalid(field+".type", "%q: want a-z, 0-9, _ and -, a letter first, at most 63", e.GetType())
	}
	if e.Time == nil {
		e.Time = timestamppb.Now()
	}
	return nil
}

// Add queues checked events and returns a function that waits until they are stored. When the
// queue is full it waits for room until ctx ends, and then counts them as lost.
func (o *Outbox) Add(ctx context.Context, events []*solov1.Event) (wait func(context.Context) error) {
	b := batch{done: make(chan struct{})}
	for _, e := range events {
		svc, err := subject.ParseService(e.GetService())
		data, merr := proto.Marshal(e)
		if err := errors.Join(err, merr); err != nil {
			o.log.Error("an event cannot be published", "type", e.GetType(), "error", err)
			o.lost.Inc()
			continue
		}
		m := nats.NewMsg(subject.Event(svc, e.GetType()))
		m.Data = data
		m.Header.Set(nats.MsgIdHdr, rand.Text()) // a repeated try is stored once
		b.msgs = append(b.msgs, m)
	}
	if len(b.msgs) == 0 {
		return func(context.Context) error { return nil }
	}
	select {
	case o.queue <- b:
	case <-ctx.Done():
		o.lost.Add(float64(len(b.msgs)))
		o.log.Error("events are lost: the queue is full", "count", len(b.msgs))
		return func(context.Context) error { return ctx.Err() }
	}
	return func(ctx context.Context) error {
		select {
		case <-b.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run publishes until ctx ends, and then what is queued, with one try each.
func (o *Outbox) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case b := <-o.queue:
					o.publish(ctx, b)
				default:
					return
				}
			}
		case b := <-o.queue:
			o.publish(ctx, b)
		}
	}
}

func (o *Outbox) publish(ctx context.Context, b batch) {
	defer close(b.done)
	for _, m := range b.msgs {
		for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			try, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
			_, err := o.js.PublishMsg(try, m)
			cancel()
			if err == nil {
				o.published.Inc()
				break
			}
			o.log.Warn("an event could not be published", "subject", m.Subject, "error", err)
			select {
			case <-ctx.Done():
				o.lost.Inc()
			case <-time.After(wait):
				continue
			}
			break
		}
	}
}

// Read hands the events of an object to f in order, those after a sequence, then new ones as
// they come, until ctx ends or f fails. After 0 it begins with what comes after the call.
// Events that the stream's bounds have dropped are not there any more.
func Read(ctx context.Context, js jetstream.JetStream, of subject.Service, after uint64, f func(*solov1.Event) error) error {
	s, err := js.Stream(ctx, stream.Events)
	if err != nil {
		return unavailable(err)
	}
	if after == 0 {
		after = s.CachedInfo().State.LastSeq
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject.EventsOf(of)}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
	})
	if err != nil {
		return unavailable(err)
	}
	it, err := c.Messages(jetstream.PullMaxMessages(128))
	if err != nil {
		return unavailable(err)
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return unavailable(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return unavailable(err)
		}
		e := &solov1.Event{}
		if err := proto.Unmarshal(m.Data(), e); err != nil {
			return fault.Internal(fmt.Errorf("event %d: %w", meta.Sequence.Stream, err), "event %d is unreadable", meta.Sequence.Stream)
		}
		e.Sequence = meta.Sequence.Stream
		if err := f(e); err != nil {
			return err
		}
	}
}

func unavailable(cause error) error {
	return fault.Unavailable(time.Second, "events cannot be read now; watch again after the last one seen").Because(cause)
}
