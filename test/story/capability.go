package story

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
)

func counter() subject.Service { return subject.Service{Namespace: "alice", Name: "counter"} }

func (s *Story) grantBob(ctx context.Context) error {
	s.bob = filepath.Join(s.dir, "bob.nk")
	if _, err := s.solo(ctx, s.alice, "grant", "--rule", "svc:alice/counter=call:get", "--ttl", "1m", "--label", "bob", "--out", s.bob); err != nil {
		return err
	}
	seed, err := world.Handle(s.bob)
	if err != nil {
		return err
	}
	if s.bobID, err = conn.ID(seed); err != nil {
		return err
	}
	out, err := s.solo(ctx, s.bob, "call", "alice/counter", "get")
	if err != nil {
		return err
	}
	if out != fmt.Sprint(s.acked) {
		return fmt.Errorf("bob gets %q, want %d", out, s.acked)
	}
	s.say("    bob is %s; solo call alice/counter get -> %s", s.bobID, out)

	raw, err := s.W.Raw(ctx, seed)
	if err != nil {
		return err
	}
	defer raw.Close()
	m, err := raw.RequestWithContext(ctx, subject.Call(counter(), "get", raw.ID), nil)
	if err != nil || strings.TrimSpace(string(m.Data)) != fmt.Sprint(s.acked) {
		return fmt.Errorf("get over a raw connection: %v %v", m, err)
	}
	if err := refused(ctx, raw, subject.Call(counter(), "add", raw.ID)); err != nil {
		return err
	}
	r := s.W.Solo(ctx, s.bob, "call", "alice/counter", "add")
	if r.Code != 1 || !strings.Contains(r.Err, fault.ReasonNotGranted) || !strings.Contains(r.Err, "svc:alice/counter=call:add") {
		return fmt.Errorf("bob's add through the gateway: exit %d, %s", r.Code, r.Err)
	}
	s.say("    the gateway explains:\n%s", indent(r.Err))
	return nil
}

// refused publishes and waits for the server's own refusal.
func refused(ctx context.Context, raw *world.Raw, subj string) error {
	if err := raw.PublishRequest(subj, raw.NewInbox(), nil); err != nil {
		return err
	}
	if err := raw.FlushWithContext(ctx); err != nil {
		return err
	}
	select {
	case why := <-raw.Refused:
		if !strings.Contains(strings.ToLower(why), "permissions violation") || !strings.Contains(why, subj) {
			return fmt.Errorf("publishing %s: the server said %q", subj, why)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("publishing %s was not refused by the server", subj)
	}
}

func (s *Story) revokeBob(ctx context.Context) error {
	seed, err := world.Handle(s.bob)
	if err != nil {
		return err
	}
	raw, err := s.W.Raw(ctx, seed)
	if err != nil {
		return err
	}
	defer raw.Close()
	begin := time.Now()
	r, err := s.as.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: s.bobID})
	took := time.Since(begin)
	if err != nil {
		return err
	}
	if r.RevokedCount != 1 || r.ConnectionsCut < 1 {
		return fmt.Errorf("revoked %d, cut %d", r.RevokedCount, r.ConnectionsCut)
	}
	select {
	case <-raw.Closed:
	case <-ctx.Done():
		return errors.New("bob's live connection is still there")
	}
	s.say("    revoked in %s; %d live connections cut before the answer", round(took), r.ConnectionsCut)
	if again, err := s.W.Raw(ctx, seed); !errors.Is(err, nats.ErrAuthorization) {
		if again != nil {
			again.Close()
		}
		return fmt.Errorf("the bus lets bob in again: %v", err)
	}
	bob, err := s.W.Client(seed)
	if err != nil {
		return err
	}
	defer bob.Close()
	_, err = bob.Call(ctx, &solov1.CallRequest{Service: "alice/counter", Op: "get"})
	return wantFault(err, fault.ReasonHandleRefused, "bob calls through the gateway")
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ")
}
