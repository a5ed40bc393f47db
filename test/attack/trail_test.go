package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
)

// trails are attacks by somebody who may read the audit trail with a NATS client.
func trails() []attack {
	const reader = "a consumer of the audit trail"
	return []attack{
		{name: "another's consumer", has: reader, tries: "to take and acknowledge another reader's records", off: check.OwnID, run: anothersConsumer},
		{name: "laundering by a consumer", has: reader, tries: "to have records delivered as calls", off: check.ImportShape, run: launderingConsumer},
	}
}

// reader is a holder of audit=read with a consumer and a raw connection.
type reader struct {
	holder
	*world.Raw
}

func (r reader) close() {
	_ = r.holder.Close() // the test is over
	r.Raw.Close()
}

func (s *scene) reader(ctx context.Context) (reader, error) {
	h, err := s.grant(ctx, s.root, 0, "audit=read")
	if err != nil {
		return reader{}, err
	}
	if _, err := h.SubscribeAudit(ctx, &solov1.SubscribeAuditRequest{}); err != nil {
		return reader{}, err
	}
	raw, err := s.Raw(ctx, h.seed)
	return reader{h, raw}, err
}

// consumer is what the reader's consumer says of itself.
type consumer struct {
	Delivered struct {
		Seq uint64 `json:"consumer_seq"`
	}
	AckFloor struct {
		Seq uint64 `json:"consumer_seq"`
	} `json:"ack_floor"`
	Waiting int `json:"num_waiting"`
}

func (r reader) consumer(ctx context.Context) (c consumer, err error) {
	m, err := r.RequestWithContext(ctx, subject.TrailInfo(r.id), nil)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(m.Data, &c)
}

// next takes one record.
func (r reader) next(ctx context.Context) (*nats.Msg, error) {
	m, err := r.RequestWithContext(ctx, subject.TrailNext(r.id), []byte(`{"batch":1,"expires":5000000000}`))
	if err == nil && m.Header.Get("Status") != "" {
		err = fmt.Errorf("no record: %v", m.Header)
	}
	return m, err
}

func anothersConsumer(ctx context.Context, s *scene) (bool, error) {
	victim, err := s.reader(ctx)
	if err != nil {
		return false, err
	}
	defer victim.close()
	attacker, err := s.reader(ctx)
	if err != nil {
		return false, err
	}
	defer attacker.close()
	theirs, err := victim.next(ctx)
	if err != nil {
		return false, err
	}
	observed := false
	for _, m := range []*nats.Msg{
		{Subject: subject.TrailNext(victim.id), Data: []byte(`{"batch":1,"no_wait":true}`)},
		{Subject: subject.TrailInfo(victim.id)},
		{Subject: theirs.Reply, Data: []byte("+ACK")},
		{Subject: theirs.Reply, Data: []byte(`+NXT {"batch":1,"no_wait":true}`)},
		{Subject: theirs.Reply, Data: []byte("+TERM")},
	} {
		_, answer, err := send(ctx, attacker.Raw, m)
		if err != nil {
			return false, err
		}
		observed = observed || answer != nil && !nobody(answer)
	}
	c, err := victim.consumer(ctx)
	if err != nil {
		return false, err
	}
	_, err = attacker.next(ctx)
	return observed || c.AckFloor.Seq > 0 || c.Delivered.Seq > 1, err
}

func launderingConsumer(ctx context.Context, s *scene) (bool, error) {
	victim, err := s.reader(ctx)
	if err != nil {
		return false, err
	}
	defer victim.close()
	attacker, err := s.reader(ctx)
	if err != nil {
		return false, err
	}
	defer attacker.close()
	r, came, err := s.besideRegistry(ctx)
	if err != nil {
		return false, err
	}
	defer r.Close()
	mine, err := attacker.next(ctx)
	if err != nil {
		return false, err
	}
	for _, reply := range []string{
		"shortcut", subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), s.root.id), subject.Sys(subject.Registry, "list", subject.Nothing(), s.root.id),
		subject.TrailNext(victim.id), subject.TrailInfo(victim.id), "$JS.API.CONSUMER.MSG.NEXT.AUDIT." + victim.id, "$JS.API.CONSUMER.DELETE.AUDIT." + victim.id,
		"$JS.API.STREAM.DELETE.AUDIT", subject.AuditEvent(subject.Capmgr, "x"), "$KV.registry.x", subject.GatePush(s.root.id), subject.Caps,
		strings.Replace(mine.Reply, attacker.id, victim.id, 1),
	} {
		for range 20 { // the queue gives the registry itself some of them
			for _, m := range []*nats.Msg{
				{Subject: subject.TrailInfo(attacker.id)},
				{Subject: mine.Reply, Data: []byte("+WPI")},
				{Subject: subject.TrailNext(attacker.id), Data: []byte(`{"batch":1,"no_wait":true}`)},
			} {
				m.Reply = reply
				if err := attacker.PublishMsg(m); err != nil {
					return false, err
				}
			}
		}
	}
	// What the attacker sent has been answered, and so has been heard.
	_, err = attacker.consumer(ctx)
	if err := errors.Join(err, r.FlushWithContext(ctx)); err != nil {
		return false, err
	}
	observed := false
	for {
		m, err := came.NextMsg(1) // what came has come
		if err != nil {
			break
		}
		observed = observed || strings.Contains(string(m.Data), attacker.id) || strings.Contains(m.Subject, "laundered")
	}
	c, err := victim.consumer(ctx)
	return observed || c.AckFloor.Seq > 0 || c.Delivered.Seq > 0 || c.Waiting > 0, err
}
