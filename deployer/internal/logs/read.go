package logs

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// DefaultTail is how many lines a reader gets that asks for no number.
const DefaultTail = 100

// Query says which lines.
type Query struct {
	// Service may have None for its namespace, its name or both.
	Service subject.Service
	// Instance is empty for all.
	Instance string
	// Tail is how many of the newest lines to begin with; 0 is DefaultTail.
	Tail int
	// Follow goes on with new lines.
	Follow bool
}

// Read hands the lines to send, oldest first, until they are all sent, or without end when they are
// followed. It ends with send's error or ctx.
func Read(ctx context.Context, js jetstream.JetStream, q Query, send func(*solov1.LogRecord) error) error {
	if q.Instance != "" && !validToken(q.Instance) {
		return fault.Invalid("instance", "%q cannot be an instance", q.Instance)
	}
	if q.Tail == 0 {
		q.Tail = DefaultTail
	}
	filter := subject.LogsOf(q.Service, q.Instance)
	s, err := js.Stream(ctx, stream.Logs)
	if err != nil {
		return unavailable(err)
	}
	n := uint64(q.Tail)
	start, err := tail(ctx, s, filter, n)
	if err != nil {
		return err
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return unavailable(err)
	}
	// What matches at this moment is what there is to read; all but the last n of it are passed over.
	there := c.CachedInfo().NumPending
	if there == 0 && !q.Follow {
		return nil
	}
	it, err := c.Messages()
	if err != nil {
		return unavailable(err)
	}
	defer it.Stop()
	// The iterator waits without a context, so the end of ctx stops it.
	unhook := context.AfterFunc(ctx, it.Stop)
	defer unhook()
	for seen := uint64(0); ; {
		m, err := it.Next()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return unavailable(err)
		case err != nil:
			continue // a missed heartbeat; the ordered consumer begins again by itself
		}
		meta, err := m.Metadata()
		if err != nil {
			return unavailable(err)
		}
		if seen++; seen+n <= there {
			continue
		}
		r := &solov1.LogRecord{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(m.Data(), r); err == nil {
			r.Sequence = meta.Sequence.Stream
			if err := send(r); err != nil {
				return err
			}
		}
		// With what was dropped meanwhile, fewer may come than were there.
		if !q.Follow && (seen >= there || meta.NumPending == 0) {
			return nil
		}
	}
}

// tail finds a sequence from which at least n lines match, and not many more, or the first if there
// are fewer. It asks the server to count, so its cost does not grow with the log. Lines may come while
// it looks: a count is a lower bound from then on.
func tail(ctx context.Context, s jetstream.Stream, filter string, n uint64) (start uint64, err error) {
	info, err := s.Info(ctx)
	if err != nil {
		return 0, unavailable(err)
	}
	first, end := max(info.State.FirstSeq, 1), info.State.LastSeq+1
	low := first
	match, err := count(ctx, s, filter, low)
	if err != nil || match <= n {
		return low, err
	}
	// From low n or more match; from high fewer did when they were counted.
	high := end
	for step := 2 * n; low+step < end; step *= 4 {
		at := end - step
		got, err := count(ctx, s, filter, at)
		if err != nil {
			return 0, err
		}
		if got >= n {
			low, match = at, got
			break
		}
		high = at
	}
	for high-low > 1 && match > 2*n {
		mid := low + (high-low)/2
		got, err := count(ctx, s, filter, mid)
		if err != nil {
			return 0, err
		}
		if got >= n {
			low, match = mid, got
		} else {
			high = mid
		}
	}
	return low, nil
}

// count asks how many lines match from a sequence on.
func count(ctx context.Context, s jetstream.Stream, filter string, from uint64) (uint64, error) {
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Second,
	})
	if err != nil {
		return 0, unavailable(err)
	}
	return c.CachedInfo().NumPending, nil
}

func unavailable(err error) error {
	return fault.Unavailable(time.Second, "the log cannot be read now").Because(err)
}
