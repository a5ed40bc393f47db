package gate_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/jstest"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// until waits for something that other processes bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !is(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(what)
		}
	}
}

func TestGateFollowsTheFence(t *testing.T) {
	w := bustest.Start(t)
	before := w.Grant(t, "svc:x/*=*")
	p := w.Process(t, subject.Registry)
	if !p.Table.Leased() || p.Table.Live(before.ID) != gate.Allowed || p.Table.Component(p.Peer.ID) != subject.Registry {
		t.Fatal("a joined gate is not current")
	}
	after := w.Grant(t, "svc:x/*=*")
	if p.Table.Live(after.ID) != gate.Allowed {
		t.Error("the fence answered before the gate knew a grant")
	}
	if c := w.Revoke(t, before.ID); c.Gates == 0 || c.GatesCut != 0 || p.Table.Live(before.ID) != gate.Revoked {
		t.Errorf("%+v", c)
	}
	// A later component is known to the earlier one.
	other := w.Process(t, subject.Audit)
	if p.Table.Component(other.Peer.ID) != subject.Audit {
		t.Error("components are not told")
	}
	// The lease goes on.
	begun := gate.Boottime()
	until(t, "the lease is not renewed", func() bool { return gate.Boottime() > begun+int64(2500*time.Millisecond) })
	if !p.Table.Leased() {
		t.Error("the lease ran out while the fence was there")
	}
	// Without the fence it ends.
	w.Fence.Close()
	until(t, "the lease outlives the fence", func() bool { return !p.Table.Leased() })
	if d := p.Table.Call(after.ID, subject.Service{Namespace: "x", Name: "y"}, "get"); d != gate.NoLease {
		t.Error(d)
	}
}

func TestGateFetchesWhatItMissed(t *testing.T) {
	w := bustest.Start(t)
	for range 5 {
		w.Grant(t, "svc:x/*=*")
	}
	p := w.Process(t, subject.Registry)
	seq := p.Table.Sequence()
	// As after a lost connection: the table is behind, and what is pushed leaves a gap.
	p.Table.Reset()
	h := w.Grant(t, "svc:x/*=*")
	if p.Table.Sequence() != seq+1 || p.Table.Live(h.ID) != gate.Allowed {
		t.Errorf("sequence %d, %s", p.Table.Sequence(), p.Table.Live(h.ID))
	}
	// Behind without a push: the next lease brings it forward before it renews.
	p.Table.Reset()
	until(t, "the gate does not catch up", func() bool { return p.Table.Sequence() == seq+1 })
}

func TestGateRejoins(t *testing.T) {
	w := bustest.Start(t)
	h := w.Grant(t, "svc:x/*=*")
	p := w.Process(t, subject.Registry)
	w.Fence.Cut(p.Peer.ID) // its connection is lost and found again
	until(t, "not connected again", p.Conn.IsConnected)
	w.Revoke(t, h.ID)
	until(t, "the gate does not learn what happened meanwhile", func() bool { return p.Table.Live(h.ID) == gate.Revoked && p.Table.Leased() })
}

// A gate does not break on rubbish, nor acknowledge what it could not apply. The far end is
// played by hand on a server without permissions.
func TestGateAgainstRubbish(t *testing.T) {
	s := jstest.New(t)
	root, h, gateID := bustest.NewHandle(t), bustest.NewHandle(t), bustest.NewHandle(t).ID
	event := &kernelv1.CapEvent{Sequence: 1, Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{Id: root.ID, Kind: kernelv1.CapKind_CAP_KIND_HOLDER}}}
	answers := map[string]proto.Message{
		subject.FenceJoin: &kernelv1.FenceJoinResponse{
			Sequence: 1, Components: map[string]string{gateID: "x"},
			Lease: &kernelv1.GateLease{Sequence: 1, DeadlineBoottimeNs: gate.Boottime() + int64(time.Hour)},
		},
		subject.FenceTable: &kernelv1.FenceTableResponse{LastSequence: 1},
	}
	first := true
	if _, err := s.Conn.Subscribe(subject.FenceServing, func(m *nats.Msg) {
		op, _, err := subject.ParseFence(m.Subject)
		if err != nil {
			t.Error(err)
		}
		a := answers[op]
		if op == subject.FenceTable && first {
			a, first = &kernelv1.FenceTableResponse{Events: []*kernelv1.CapEvent{event}, LastSequence: 1}, false
		}
		if err := m.Respond(marshal(t, a)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.Conn.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	tab := gate.NewTable()
	c, err := gate.Join(t.Context(), tab, gate.ClientOptions{Conn: nc, ID: gateID, Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if tab.Sequence() != 1 || tab.Live(root.ID) != gate.Allowed || !tab.Leased() {
		t.Fatal("not joined")
	}
	record := &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{Id: h.ID, Parent: "nobody"}}
	for name, b := range map[string][]byte{
		"rubbish":                 {0xff, 0xff},
		"a record that cannot be": marshal(t, &kernelv1.GatePush{Events: []*kernelv1.CapEvent{{Sequence: 2, Change: record}}}),
		"a gap nobody can fill":   marshal(t, &kernelv1.GatePush{Events: []*kernelv1.CapEvent{{Sequence: 100}}}),
	} {
		if m, err := s.Conn.Request(subject.GatePush(gateID), b, 100*time.Millisecond); err == nil {
			t.Errorf("%s was acknowledged: %q", name, m.Data)
		}
	}
	// A lease for records that the gate does not have renews nothing, nor does rubbish.
	tab.SetLease(0)
	for _, b := range [][]byte{{0xff}, marshal(t, &kernelv1.GateLease{Sequence: 100, DeadlineBoottimeNs: gate.Boottime() + int64(time.Hour)})} {
		if err := s.Conn.Publish(subject.GateLease, b); err != nil {
			t.Fatal(err)
		}
	}
	// What is in order goes on.
	good := &kernelv1.CapEvent{Sequence: 2, Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{Id: h.ID, Parent: root.ID}}}
	m, err := s.Conn.Request(subject.GatePush(gateID), marshal(t, &kernelv1.GatePush{Events: []*kernelv1.CapEvent{good}}), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var ack kernelv1.GateAck
	if err := proto.Unmarshal(m.Data, &ack); err != nil || ack.GetSequence() != 2 || tab.Live(h.ID) != gate.Allowed {
		t.Error(&ack, err)
	}
	until(t, "the bad leases are not read", func() bool {
		err := s.Conn.Publish(subject.GateLease, marshal(t, &kernelv1.GateLease{Sequence: 2, DeadlineBoottimeNs: gate.Boottime() + int64(time.Hour)}))
		return err == nil && tab.Leased()
	})
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Error(err)
	}
	return b
}

func TestJoinNeedsTheFence(t *testing.T) {
	s := jstest.New(t)
	o := gate.ClientOptions{Conn: s.Conn, ID: bustest.NewHandle(t).ID, Log: slog.New(slog.DiscardHandler)}
	if _, err := gate.Join(t.Context(), gate.NewTable(), o); err == nil {
		t.Error("joined nothing")
	}
}
