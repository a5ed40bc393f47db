// Package auditor makes consumers of the audit trail for holders of `audit=read`, who read from
// them with any NATS client, and ends those of holders that are not live any more. A consumer
// bears its holder's id, by which the bus knows who may use it.
package auditor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Bounds of one consumer, and of them all.
const (
	// maxBatch is the most records in one request; the largest that NATS clients ask for by
	// themselves is 500.
	maxBatch = 512
	// maxBytes is the most bytes in one request, below what makes a connection too slow.
	maxBytes = 8 << 20
	// maxWaiting is the most requests that wait at a time.
	maxWaiting = 4
	// maxUnacked is the most records that are out and not acknowledged.
	maxUnacked = 1024
	// ackWait is how long a record may be out before it is delivered again.
	ackWait = 30 * time.Second
	// idle is how long a consumer is kept that nobody uses.
	idle = 24 * time.Hour
	// maxConsumers bounds the consumers that there are, for each costs memory and writes.
	maxConsumers = 256
	// sweepEvery is how often those of dead holders are looked for where nothing says that
	// somebody died.
	sweepEvery = 2 * time.Second
	// askTimeout bounds one question to JetStream.
	askTimeout = 5 * time.Second
)

// Auditors makes and ends consumers. Its methods are safe for concurrent use.
type Auditors struct {
	js   jetstream.JetStream
	gate *gate.Table
	log  *slog.Logger
	died chan struct{} // holds one; somebody died

	mu sync.Mutex // held while consumers are counted and made
}

// New makes it; Run must be running for consumers to end.
func New(js jetstream.JetStream, t *gate.Table, log *slog.Logger) *Auditors {
	return &Auditors{js: js, gate: t, log: log, died: make(chan struct{}, 1)}
}

// Serve adds the operation to a server that has not been started.
func (a *Auditors) Serve(s *rpc.Server) { rpc.Handle(s, "auditor", a.subscribe) }

// Died has the consumers of dead holders ended now.
func (a *Auditors) Died() {
	select {
	case a.died <- struct{}{}:
	default: // it will be
	}
}

// Run ends consumers until ctx ends.
func (a *Auditors) Run(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		if err := a.sweep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("consumers of the audit trail whose holders are dead could not be ended", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-a.died:
		}
	}
}

// config is a holder's consumer.
func config(id string, req *solov1.SubscribeAuditRequest) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable: id, Description: "reads the audit trail for a holder", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxAckPending: maxUnacked, MaxWaiting: maxWaiting, MaxRequestBatch: maxBatch, MaxRequestMaxBytes: maxBytes,
		MaxRequestExpires: embed.TrailWait, InactiveThreshold: idle, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case req.GetNew():
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	case req.GetAfterSequence() > 0:
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, req.GetAfterSequence()+1
	}
	return c
}

func (a *Auditors) subscribe(ctx context.Context, c rpc.Caller, req *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, error) {
	if req.GetNew() && req.GetAfterSequence() > 0 {
		return nil, fault.Invalid("after_sequence", "begin after a record or with new ones, not both")
	}
	existed, err := a.ensure(ctx, c.ID, req)
	if err != nil {
		return nil, err
	}
	if !a.may(c.ID) { // it died meanwhile, and the consumer may have come too late for the sweep
		a.Died()
	}
	return &solov1.SubscribeAuditResponse{
		Stream: stream.Audit, Consumer: c.ID, Domain: subject.TrailDomain, Existed: existed, MaxBatch: maxBatch, MaxWait: durationpb.New(embed.TrailWait),
		MaxUnacknowledged: maxUnacked, MaxWaiting: maxWaiting, IdleTime: durationpb.New(idle),
	}, nil
}

func (a *Auditors) ensure(ctx context.Context, id string, req *solov1.SubscribeAuditRequest) (existed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch _, err := a.js.Consumer(ctx, stream.Audit, id); {
	case err == nil:
		return true, nil
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return false, unavailable(err)
	}
	all, err := a.holders(ctx)
	if err != nil {
		return false, unavailable(err)
	}
	if len(all) >= maxConsumers {
		return false, fault.New(codes.ResourceExhausted, fault.ReasonUnavailable, "%d holders read the audit trail with a consumer of their own already", len(all)).
			Next("read it with `solo audit tail`, which needs none, or revoke handles that no longer read")
	}
	if _, err := a.js.CreateConsumer(ctx, stream.Audit, config(id, req)); err != nil {
		return false, unavailable(err)
	}
	return false, nil
}

func unavailable(err error) error {
	return fault.New(codes.Unavailable, fault.ReasonAuditUnavailable, "the audit trail: %v", err).Retry(time.Second)
}

// may tells whether a holder reads the trail.
func (a *Auditors) may(id string) bool {
	return a.gate.Rule(id, capability.Object{Kind: capability.Audit}, "read") == gate.Allowed
}

// sweep ends the consumers of those who are revoked or expired.
func (a *Auditors) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := a.holders(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range all {
		if d := a.gate.Live(id); d != gate.Revoked && d != gate.Expired {
			continue // a table that is being read anew knows nobody
		}
		if err := a.js.DeleteConsumer(ctx, stream.Audit, id); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// holders are those who have a consumer. The client's own list asks for the stream besides, which
// is more than this process may.
func (a *Auditors) holders(ctx context.Context) (ids []string, err error) {
	for seen := 0; ; {
		req, err := json.Marshal(map[string]int{"offset": seen})
		if err != nil {
			return nil, err
		}
		m, err := a.js.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: "$JS.API.CONSUMER.NAMES." + stream.Audit, Data: req})
		if err != nil {
			return nil, err
		}
		var page struct {
			Total     int
			Consumers []string
			Error     *jetstream.APIError
		}
		if err := json.Unmarshal(m.Data, &page); err != nil {
			return nil, fmt.Errorf("names of consumers: %w", err)
		}
		if page.Error != nil {
			return nil, page.Error
		}
		for _, name := range page.Consumers {
			if subject.ValidID(name) {
				ids = append(ids, name)
			}
		}
		if seen += len(page.Consumers); seen >= page.Total || len(page.Consumers) == 0 {
			return ids, nil
		}
	}
}
