package bustest_test

import (
	"context"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// A component under test answers a holder through the whole bus, and refuses one who may not.
func TestComponentAnswersHolders(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	r := w.Run(t, daemon.Command{Component: subject.Registry, Run: func(ctx context.Context, p *daemon.Process) error {
		s, err := p.Server()
		if err != nil {
			return err
		}
		rpc.Handle(s, "status", func(_ context.Context, c rpc.Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			return &solov1.StatusResponse{Service: &solov1.Service{Name: req.GetService(), LastError: c.ID}}, nil
		})
		if err := s.Start(); err != nil {
			return err
		}
		defer s.Close(context.WithoutCancel(ctx))
		if err := p.Ready(ctx, map[string]string{"metrics": "x"}); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}}, nil)
	if r.Addresses["metrics"] != "x" {
		t.Fatalf("addresses %v", r.Addresses)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	peer := rpc.Peer{Conn: w.Dial(t, alice), ID: alice.ID}
	var resp solov1.StatusResponse
	svc := subject.Service{Namespace: "alice", Name: "counter"}
	if err := peer.Call(ctx, subject.Registry, "status", svc, &solov1.StatusRequest{Service: "alice/counter"}, &resp); err != nil {
		t.Fatal(err)
	}
	if resp.GetService().GetLastError() != alice.ID {
		t.Fatalf("the component saw %q", resp.GetService().GetLastError())
	}
	w.Revoke(t, alice.ID)
	if _, err := w.TryDial(t, alice); err == nil {
		t.Fatal("a revoked holder connected")
	}
	if d := w.Fence.Table().Live(alice.ID); d != gate.Revoked {
		t.Fatalf("the fence says %s", d)
	}
}
