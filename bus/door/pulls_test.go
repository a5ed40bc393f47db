package door_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
)

// The server keeps the way back of a request to a consumer though it has been answered; so its
// place is kept as well, until nobody listens there.
func TestRequestsToAConsumerKeepTheirPlaces(t *testing.T) {
	const places = 8
	w := newWorld(t, limits(func(l *door.Limits) { l.Calls = places }))
	alice := w.Grant(t, "audit=read")
	if _, err := w.Process(t, subject.Audit).JS.CreateConsumer(t.Context(), stream.Audit, jetstream.ConsumerConfig{Durable: alice.ID, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy}); err != nil {
		t.Fatal(err)
	}
	a := w.Dial(t, alice)
	ask := func(sub *nats.Subscription) (status string, err error) {
		t.Helper()
		if err := a.PublishRequest(subject.TrailNext(alice.ID), sub.Subject, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		return m.Header.Get("Status"), rpc.ReplyError(m)
	}
	for range 3 {
		sub, err := a.SubscribeSync(a.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		for n := range places {
			if status, _ := ask(sub); status != "404" {
				t.Fatalf("request %d: status %q", n, status)
			}
		}
		if n := w.Server.PendingReplies(); n != places {
			t.Errorf("the server keeps %d ways back, want %d", n, places)
		}
		if _, err := ask(sub); !fault.Is(err, fault.ReasonTooManyCalls) {
			t.Errorf("one more: %v", err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		w.until("all places are free", func() bool { return w.Server.Door().Calls() == 0 && w.Server.PendingReplies() == 0 })
	}
}
