package capmgr_test

import (
	"testing"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func TestRevokeCutsBeforeItAnswers(t *testing.T) {
	w, root := start(t)
	p := w.Process(t, subject.Registry) // a gate
	a := root.grant(t, w, 5, "svc:*/*=*")
	b := a.grant(t, w, 4, "svc:x/*=*")
	c := b.grant(t, w, 0, "svc:x/y=*")
	other := a.grant(t, w, 0, "svc:x/y=*")
	cids := map[holder]uint64{}
	for _, h := range []holder{b, c, other} {
		cid, err := h.conn.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		cids[h] = cid
	}
	resp, err := a.revoke(t, b.ID)
	if err != nil || resp.GetRevokedCount() != 2 || resp.GetConnectionsCut() != 2 {
		t.Fatal(resp, err)
	}
	for _, h := range []holder{b, c} {
		if w.Server.Alive(cids[h]) {
			t.Error("answered while a connection was live")
		}
		if d := p.Table.Live(h.ID); d != gate.Revoked {
			t.Error("answered before a gate knew:", d)
		}
		if _, err := w.TryDial(t, h.Handle); err == nil {
			t.Error("a dead handle connects")
		}
	}
	if !w.Server.Alive(cids[other]) || p.Table.Live(other.ID) != gate.Allowed {
		t.Error("another's connection was cut")
	}
	// Again: it is so already.
	if resp, err := a.revoke(t, b.ID); err != nil || resp.GetRevokedCount() != 0 {
		t.Error(resp, err)
	}
	if resp, err := a.revoke(t, c.ID); err != nil || resp.GetRevokedCount() != 0 {
		t.Error(resp, err)
	}
	if f := refused(t, second(other.revoke(t, a.ID)), fault.ReasonNotGranted); f.Help == "" {
		t.Error("it does not say what to do")
	}
	refused(t, second(other.revoke(t, b.ID)), fault.ReasonNotGranted)
	refused(t, second(a.revoke(t, bustest.NewHandle(t).ID)), fault.ReasonCapabilityNotFound)
	refused(t, second(root.revoke(t, root.ID)), fault.ReasonInvalidArgument)
	if _, err := root.revoke(t, a.ID); err != nil {
		t.Error(err)
	}
	d := root.describe(t, &solov1.DescribeCapabilityRequest{Id: other.ID})
	if d.GetCapability().GetLive() || d.GetCapability().GetRevokedAt() != nil {
		t.Errorf("%v", d.GetCapability())
	}
}

func TestHolderRevokesItself(t *testing.T) {
	w, root := start(t)
	a := root.grant(t, w, 1, "svc:*/*=*")
	child := a.grant(t, w, 0, "svc:x/y=*")
	closed := make(chan struct{})
	a.conn.SetClosedHandler(nil)
	go func() { defer close(closed); _, _ = a.revoke(t, a.ID) }() // its connection is gone before the answer can reach it
	<-closed
	for _, h := range []holder{a, child} {
		if d := w.Fence.Table().Live(h.ID); d != gate.Revoked {
			t.Error(d)
		}
	}
}

func second[T any](_ T, err error) error { return err }
