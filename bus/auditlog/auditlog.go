// Package auditlog is how components write the audit trail. A control operation is recorded
// as an intent before it takes effect and as an outcome after, joined by a request id; each
// is on disk (stream AUDIT, fsync) when the call returns. An operation whose intent cannot be
// recorded must not happen. Denials are counted and recorded once a second per holder and
// subject, in bounded memory: beyond the bound they are counted together.
package auditlog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	flushEvery = time.Second
	// maxDenied bounds the distinct denials counted apart within flushEvery.
	maxDenied = 1000
	// maxKinds bounds those of one holder.
	maxKinds = 64
	// publishTimeout bounds one record on its way to disk.
	publishTimeout = 5 * time.Second
)

// Recorder writes records of one component. Its methods are safe for concurrent use.
type Recorder struct {
	js        jetstream.JetStream
	component string
	table     *gate.Table
	log       *slog.Logger

	mu     sync.Mutex
	denied map[deniedKey]uint32 // mu
	kinds  map[string]int       // mu; how many of denied are one holder's
}

type deniedKey struct {
	holder, event, object, reason string
}

// New returns a Recorder; Run must be running for denials to be recorded.
func New(js jetstream.JetStream, component string, table *gate.Table, log *slog.Logger) *Recorder {
	return &Recorder{js: js, component: component, table: table, log: log, denied: map[deniedKey]uint32{}, kinds: map[string]int{}}
}

// Entry is what an operation says about itself.
type Entry struct {
	// Holder is the capability or component behind it.
	Holder string
	// Event is the operation: deploy, kill, grant, ...
	Event string
	// Object is what it is about.
	Object string
	// RequestID joins intent and outcome; one is made when empty.
	RequestID string
	// ArgumentDigest and CodeDigest are hex SHA-256, possibly empty.
	ArgumentDigest, CodeDigest string
	TraceID                    string
	Attributes                 map[string]string
}

// Operation is an operation whose intent is on record.
type Operation struct {
	r *Recorder
	e Entry
}

// Intent records that an operation is about to take effect. The error is a fault,
// AUDIT_UNAVAILABLE: then it must not.
func (r *Recorder) Intent(ctx context.Context, e Entry) (*Operation, error) {
	if e.RequestID == "" {
		e.RequestID = rand.Text()
	}
	if err := r.write(ctx, e, "intent", "allowed", 0); err != nil {
		return nil, fault.New(codes.Unavailable, fault.ReasonAuditUnavailable, "%s was not done: it cannot be written to the audit trail now", e.Event).
			Retry(time.Second).Because(err)
	}
	return &Operation{r, e}, nil
}

// Outcome records how the operation ended; err is nil for success. It outlives the end of
// ctx, because the effect has happened, and reports what could not be recorded.
func (o *Operation) Outcome(ctx context.Context, err error, attributes map[string]string) error {
	e, decision := o.e, "done"
	e.Attributes = map[string]string{}
	for k, v := range attributes {
		e.Attributes[k] = v
	}
	if err != nil {
		f := fault.From(err)
		decision = "failed"
		e.Attributes["reason"], e.Attributes["message"] = f.Reason, f.Message
	}
	werr := o.r.write(context.WithoutCancel(ctx), e, "outcome", decision, 0)
	if werr != nil {
		o.r.log.Error("an outcome could not be recorded", "event", e.Event, "object", e.Object, "request_id", e.RequestID, "error", werr)
	}
	return werr
}

// Code adds the code digest to the outcome.
func (o *Operation) Code(sha256 string) { o.e.CodeDigest = sha256 }

// Fact records something that happened without being asked for: a connection, a crash.
func (r *Recorder) Fact(ctx context.Context, e Entry) error {
	return r.write(ctx, e, "fact", "done", 0)
}

// Denied counts a gate's refusal of a system call.
func (r *Recorder) Denied(m subject.System, d gate.Decision) {
	object := "-"
	if m.Service != subject.Nothing() {
		object = "svc:" + m.Service.String()
	}
	r.Count(m.ID, m.Component+"."+m.Op, object, d.String())
}

// Count counts one refusal: who, of what, on what, why.
func (r *Recorder) Count(holder, event, object, reason string) {
	k := deniedKey{holder, event, object, reason}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.denied[k]; !known {
		switch {
		case len(r.denied) >= maxDenied:
			k = deniedKey{"", "other", "-", "MANY"}
		case r.kinds[holder] >= maxKinds:
			k = deniedKey{holder, "other", "-", "MANY"} // so that one cannot hide what others do
		default:
			r.kinds[holder]++
		}
	}
	r.denied[k]++
}

// Run records denials once a second until ctx ends, and once more then.
func (r *Recorder) Run(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return
		case <-t.C:
			r.flush(ctx)
		}
	}
}

func (r *Recorder) flush(ctx context.Context) {
	r.mu.Lock()
	batch := r.denied
	r.denied, r.kinds = map[deniedKey]uint32{}, map[string]int{}
	r.mu.Unlock()
	for k, n := range batch {
		e := Entry{Holder: k.holder, Event: "denied", Object: k.object, Attributes: map[string]string{"op": k.event, "reason": k.reason}}
		if err := r.write(ctx, e, "fact", "denied", n); err != nil {
			r.log.Warn("denials could not be recorded", "holder", k.holder, "op", k.event, "count", n, "error", err)
		}
	}
}

func (r *Recorder) write(ctx context.Context, e Entry, phase, decision string, count uint32) error {
	rec := &solov1.AuditRecord{
		Time: timestamppb.Now(), MonotonicNs: gate.Boottime(), Holder: e.Holder, Component: r.component,
		Event: e.Event, Phase: phase, Object: e.Object, Decision: decision, RequestId: e.RequestID,
		ArgumentDigest: e.ArgumentDigest, CodeDigest: e.CodeDigest, TraceId: e.TraceID, Count: count, Attributes: e.Attributes,
	}
	if e.Holder != "" {
		rec.Chain = r.table.Chain(e.Holder)
	}
	b, err := Canonical(rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, err = r.js.PublishMsg(ctx, &nats.Msg{Subject: subject.AuditEvent(r.component, e.Event), Data: b})
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return errors.New("the audit stream does not exist")
	}
	return err
}

// Canonical is the record's one JSON form: field names as in the proto, keys sorted, no
// spaces, 64-bit numbers as strings.
func Canonical(rec *solov1.AuditRecord) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(rec)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// Parse reads what Canonical wrote.
func Parse(b []byte) (*solov1.AuditRecord, error) {
	rec := &solov1.AuditRecord{}
	return rec, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, rec)
}
