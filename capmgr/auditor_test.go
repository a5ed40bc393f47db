package capmgr_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/durationpb"
)

// subscribe makes the holder's consumer and finds it as any client would, by the domain.
func (h holder) subscribe(t *testing.T, req *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, jetstream.Consumer) {
	t.Helper()
	resp := &solov1.SubscribeAuditResponse{}
	if err := h.call(t, "auditor", req, resp); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithDomain(h.conn, resp.GetDomain())
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(soon(t), resp.GetStream(), resp.GetConsumer())
	if err != nil {
		t.Fatal(err)
	}
	return resp, c
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for ctx := soon(t); !ok(); {
		select {
		case <-ctx.Done():
			t.Fatalf("not true in time: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// next is one record and its message.
func next(t *testing.T, c jetstream.Consumer) (*solov1.AuditRecord, jetstream.Msg) {
	t.Helper()
	m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	r, err := auditlog.Parse(m.Data())
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

// refusedByServer sends messages, each of which the server must refuse.
func (h holder) refusedByServer(t *testing.T, w *bustest.World, subjects ...string) {
	t.Helper()
	for _, s := range subjects {
		if err := h.conn.Publish(s, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.conn.FlushWithContext(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		h.wasRefused(t, w, s)
	}
}

// wasRefused waits for the server's word on one subject.
func (h holder) wasRefused(t *testing.T, w *bustest.World, subj string) {
	t.Helper()
	cid, err := h.conn.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server refuses "+subj, func() bool {
		return slices.ContainsFunc(w.Violations(), func(v embed.Violation) bool { return v.CID == cid && v.Subject == subj })
	})
}

func TestAnyClientReadsTheTrail(t *testing.T) {
	w, root := start(t)
	alice := root.grant(t, w, 1, "audit=read")
	resp, c := alice.subscribe(t, &solov1.SubscribeAuditRequest{})
	if resp.GetExisted() || resp.GetConsumer() != alice.ID || resp.GetStream() != stream.Audit {
		t.Errorf("%v", resp)
	}
	r, m := next(t, c)
	if r.GetEvent() != "grant" || r.GetObject() != alice.ID || r.GetPhase() != "intent" {
		t.Errorf("%v", r)
	}
	if err := m.DoubleAck(soon(t)); err != nil {
		t.Error(err)
	}
	info, err := c.Info(soon(t))
	if err != nil || info.AckFloor.Stream != 1 {
		t.Fatal(info, err)
	}
	if again, _ := alice.subscribe(t, &solov1.SubscribeAuditRequest{New: true}); !again.GetExisted() {
		t.Error("a second consumer was made")
	}

	// What a client does by itself is within the bounds, more is refused.
	msgs, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := msgs.Next(jetstream.NextContext(soon(t))); err != nil || m.Ack() != nil {
		t.Error(m, err)
	}
	bob := root.grant(t, w, 0, "audit=read")
	for { // a live pull hears of what happens next
		m, err := msgs.Next(jetstream.NextContext(soon(t)))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := auditlog.Parse(m.Data()); err == nil && r.GetObject() == bob.ID {
			break
		}
	}
	msgs.Stop()
	for what, request := range map[string]string{
		"MaxRequestBatch": `{"batch":513,"no_wait":true}`, "MaxRequestExpires": `{"batch":1,"expires":31000000000}`, "MaxRequestMaxBytes": `{"batch":1,"max_bytes":9000000,"no_wait":true}`,
	} {
		m, err := alice.conn.RequestWithContext(soon(t), subject.TrailNext(alice.ID), []byte(request))
		if err != nil || m.Header.Get("Status") != "409" || !strings.Contains(m.Header.Get("Description"), what) {
			t.Errorf("%s: %v %v", request, m, err)
		}
	}

	_, c = bob.subscribe(t, &solov1.SubscribeAuditRequest{AfterSequence: 1})
	if _, m := next(t, c); sequence(t, m) != 2 {
		t.Error("it does not begin after the first")
	}
	carol := root.grant(t, w, 0, "audit=read")
	_, c = carol.subscribe(t, &solov1.SubscribeAuditRequest{New: true})
	dave := root.grant(t, w, 0, "audit=read")
	if r, _ := next(t, c); r.GetObject() != dave.ID {
		t.Errorf("%v", r)
	}
	refused(t, dave.call(t, "auditor", &solov1.SubscribeAuditRequest{New: true, AfterSequence: 1}, &solov1.SubscribeAuditResponse{}), fault.ReasonInvalidArgument)
}

func sequence(t *testing.T, m jetstream.Msg) uint64 {
	t.Helper()
	meta, err := m.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	return meta.Sequence.Stream
}

func TestReadersOfTheTrailAreApart(t *testing.T) {
	w, root := start(t)
	alice, bob, eve := root.grant(t, w, 0, "audit=read"), root.grant(t, w, 0, "audit=read"), root.grant(t, w, 0, "svc:*/*=*", "kernel=*")
	_, c := alice.subscribe(t, &solov1.SubscribeAuditRequest{})
	bob.subscribe(t, &solov1.SubscribeAuditRequest{})
	_, m := next(t, c)

	for _, other := range []holder{bob, eve} {
		other.refusedByServer(t, w, subject.TrailNext(alice.ID), subject.TrailInfo(alice.ID), m.Reply(), strings.Replace(subject.TrailNext(alice.ID), ".audit.", ".", 1))
	}
	eve.refusedByServer(t, w, subject.TrailNext(eve.ID), subject.TrailInfo(eve.ID), strings.ReplaceAll(subject.TrailAck(eve.ID), "*", "1"), subject.Sys(subject.Capmgr, "auditor", subject.Nothing(), eve.ID))
	for _, domain := range []string{"$JS.audit.", "$JS."} {
		alice.refusedByServer(t, w,
			domain+"API.CONSUMER.CREATE.AUDIT."+alice.ID, domain+"API.CONSUMER.CREATE.AUDIT.push.audit.>", domain+"API.CONSUMER.DURABLE.CREATE.AUDIT."+alice.ID,
			domain+"API.CONSUMER.DELETE.AUDIT."+alice.ID, domain+"API.CONSUMER.PAUSE.AUDIT."+alice.ID, domain+"API.CONSUMER.RESET.AUDIT."+alice.ID,
			domain+"API.CONSUMER.NAMES.AUDIT", domain+"API.CONSUMER.LIST.AUDIT", domain+"API.CONSUMER.INFO.CAPS."+alice.ID, domain+"API.CONSUMER.MSG.NEXT.CAPS."+alice.ID,
			domain+"API.STREAM.INFO.AUDIT", domain+"API.STREAM.MSG.GET.AUDIT", domain+"API.DIRECT.GET.AUDIT", domain+"API.STREAM.PURGE.AUDIT", domain+"API.INFO",
		)
	}
	if _, err := c.Info(soon(t)); err != nil {
		t.Fatal(err)
	}
	if info := c.CachedInfo(); info.NumAckPending != 1 || info.AckFloor.Stream != 0 || info.NumWaiting != 0 {
		t.Errorf("somebody used the consumer: %+v", info)
	}
}

func TestAConsumerEndsWithItsHolder(t *testing.T) {
	w, root := start(t)
	trail := w.Process(t, subject.Audit).JS
	gone := func(id string) {
		t.Helper()
		eventually(t, "the consumer is gone", func() bool {
			_, err := trail.Consumer(soon(t), stream.Audit, id)
			return errors.Is(err, jetstream.ErrConsumerNotFound)
		})
	}
	alice, bob := root.grant(t, w, 1, "audit=read"), root.grant(t, w, 1, "audit=read")
	child := alice.grant(t, w, 0, "audit=read")
	for _, h := range []holder{alice, bob} {
		h.subscribe(t, &solov1.SubscribeAuditRequest{})
	}
	_, c := child.subscribe(t, &solov1.SubscribeAuditRequest{New: true})
	msgs, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := msgs.Next(); err != nil {
				ended <- err
				return
			}
		}
	}()
	if resp, err := root.revoke(t, alice.ID); err != nil || resp.GetConnectionsCut() != 2 {
		t.Fatal(resp, err)
	}
	if child.conn.FlushWithContext(soon(t)) == nil {
		t.Error("the connection of a live pull goes on")
	}
	msgs.Stop()
	<-ended
	gone(alice.ID)
	gone(child.ID)
	if _, err := trail.Consumer(soon(t), stream.Audit, bob.ID); err != nil {
		t.Error("another's consumer:", err)
	}

	key := bustest.NewHandle(t)
	if _, err := root.try(t, &solov1.GrantCapabilityRequest{Rules: []string{"audit=read"}, PublicKey: key.ID, Ttl: durationpb.New(2 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	dial(t, w, key).subscribe(t, &solov1.SubscribeAuditRequest{})
	gone(key.ID)
}

// Answers aimed at other subjects lead nowhere, however they come about: as a record, as a
// status, as what a consumer is, as an answer to an acknowledgement.
func TestAnswersOfTheTrailAreNotLaundered(t *testing.T) {
	w, root := start(t)
	alice, bob := root.grant(t, w, 0, "audit=read"), root.grant(t, w, 0, "audit=read", "svc:x/*=*")
	_, c := alice.subscribe(t, &solov1.SubscribeAuditRequest{})
	_, mine := next(t, c)
	_, theirs := bob.subscribe(t, &solov1.SubscribeAuditRequest{})

	svc := subject.Service{Namespace: "x", Name: "y"}
	stolen := make(chan string, 64)
	steal := func(m *nats.Msg) { stolen <- m.Subject }
	registry := w.Process(t, subject.Registry).Conn
	deployer := w.Process(t, subject.Deployer)
	endow(t, deployer, bob.ID)
	serving, _ := bind(t, deployer, 1, false)
	for _, s := range []struct {
		conn          *nats.Conn
		subject, name string
	}{
		{registry, subject.SysServing(subject.Registry), subject.Registry},
		{registry, subject.StrServing(subject.Registry), subject.Registry},
		{w.Dial(t, serving), subject.CallServing(svc), svc.Queue()},
	} {
		if _, err := s.conn.QueueSubscribe(s.subject, s.name, steal); err != nil {
			t.Fatal(err)
		}
		if err := s.conn.FlushWithContext(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	ack := subject.TrailAck(alice.ID)
	ack = strings.Replace(ack, ".*.*.*.*.*", strings.TrimPrefix(mine.Reply(), "$JS.ACK.AUDIT."+alice.ID), 1)
	for _, aim := range []string{
		subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), root.ID), subject.Sys(subject.Registry, "status", svc, bob.ID),
		subject.Str(subject.Registry, "watch", svc, bob.ID), subject.Call(svc, "get", bob.ID), subject.TrailNext(bob.ID), subject.TrailInfo(bob.ID),
		"$JS.API.CONSUMER.MSG.NEXT.AUDIT." + bob.ID, "$JS.API.CONSUMER.DELETE.AUDIT." + bob.ID, "$JS.API.INFO", "$JS.audit.API.CONSUMER.DELETE.AUDIT." + bob.ID,
		subject.AuditEvent("x", "forged"), subject.Caps, subject.GateLease, "$KV.registry.x", "$SYS.REQ.SERVER.PING",
	} {
		for _, m := range []nats.Msg{
			{Subject: subject.TrailNext(alice.ID), Data: []byte(`{"batch":1,"no_wait":true}`)},
			{Subject: subject.TrailNext(alice.ID), Data: []byte(`{"batch":100000}`)},
			{Subject: subject.TrailInfo(alice.ID)},
			{Subject: ack, Data: []byte("+WPI")},
			{Subject: ack, Data: []byte(`+NXT {"batch":1,"no_wait":true}`)},
		} {
			m.Reply = aim
			if err := alice.conn.PublishMsg(&m); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Acknowledging for another by way of an answer takes a reply subject that the server refuses.
	forBob := strings.ReplaceAll(subject.TrailAck(bob.ID), "*", "1")
	if err := alice.conn.PublishRequest(subject.TrailNext(alice.ID), forBob, nil); err != nil {
		t.Fatal(err)
	}
	alice.wasRefused(t, w, forBob)
	// What was asked before this has been answered.
	if _, err := c.Info(soon(t)); err != nil {
		t.Fatal(err)
	}
	info, err := theirs.Info(soon(t))
	if err != nil || info.NumWaiting != 0 || info.Delivered.Consumer != 0 || info.NumAckPending != 0 {
		t.Errorf("another's consumer was reached: %+v %v", info, err)
	}
	root.describe(t, &solov1.DescribeCapabilityRequest{}) // it was not revoked
	if err := registry.FlushWithContext(soon(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-stolen:
		t.Errorf("an answer got to %s", s)
	default:
	}
	for r, m := next(t, theirs); ; r, m = next(t, theirs) {
		if r.GetEvent() == "forged" {
			t.Error("a record was forged")
		}
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			break
		}
	}
}
