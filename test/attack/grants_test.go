package attack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// grants are attacks that would have more come out of a handle than is in it.
func grants() []attack {
	const one = "a handle that may grant"
	return []attack{
		{name: "widening by a grant", has: one, tries: "to grant what it does not have", off: check.Subset, run: widening},
		{name: "granting on and on", has: "a handle of depth 0, and one of depth 16", tries: "to grant further than allowed", off: check.Depth, run: deeper},
		{name: "an ancestor as child", has: one, tries: "to grant its own ancestor's id, and so end above it", off: check.FreshID, run: loop},
		{name: "revoking what is another's", has: one, tries: "to revoke a sibling and its own parent", off: check.Below, run: revokingUp},
		{name: "widening by a deploy", has: "a handle that may deploy", tries: "to have a service do what it may not, by a deploy and by an update", off: check.Endowment, run: endowing},
		{name: "another's request id", has: "the request id of somebody else's grant", tries: "to be given its answer", off: check.RequestHolder, run: requestID},
		{name: "one thing in the subject, another in the body", has: "a handle for one service", tries: "to see and end another", off: check.About, run: about},
	}
}

// tryGrant is a grant to a fresh key; the effect is that it is made.
func tryGrant(ctx context.Context, h holder, key string, depth uint32, rules ...string) (made bool, err error) {
	if key == "" {
		if _, key, err = newKey(); err != nil {
			return false, err
		}
	}
	_, err = h.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: rules, Depth: depth, PublicKey: key})
	return refusedWith(err, fault.ReasonGrantTooWide, fault.ReasonGrantDepth, fault.ReasonCapabilityExists, fault.ReasonNotGranted)
}

// refusedWith tells whether something was done; an error that is none of the refusals expected is one of the set-up.
func refusedWith(err error, reasons ...string) (done bool, _ error) {
	if err == nil {
		return true, nil
	}
	for _, r := range reasons {
		if fault.From(err).Reason == r {
			return false, nil
		}
	}
	return false, err
}

func widening(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	if made, err := tryGrant(ctx, t.attacker, "", 0, "svc:"+t.mine.String()+"=call:echo"); err != nil || !made {
		return false, fmt.Errorf("a grant within: %t %w", made, err)
	}
	observed := false
	for _, rules := range [][]string{
		{"svc:*/*=*"}, {"svc:" + t.theirs.String() + "=call:echo"}, {"svc:" + t.mine.Namespace + "/*=*", "svc:*/tool=status"}, {"kernel=shutdown"}, {"audit=read"},
	} {
		made, err := tryGrant(ctx, t.attacker, "", 0, rules...)
		if err != nil {
			return false, fmt.Errorf("%v: %w", rules, err)
		}
		observed = observed || made
	}
	return observed, nil
}

func deeper(ctx context.Context, s *scene) (bool, error) {
	const rule = "svc:deep/*=status"
	h := s.root
	for depth := 15; depth >= 0; depth-- {
		next, err := s.grant(ctx, h, uint32(depth), rule)
		if err != nil {
			return false, fmt.Errorf("depth %d: %w", depth, err)
		}
		defer next.Close()
		h = next
	}
	end, err := tryGrant(ctx, h, "", 0, rule)
	if err != nil {
		return false, err
	}
	same, err := s.grant(ctx, s.root, 1, rule)
	if err != nil {
		return false, err
	}
	defer same.Close()
	as, err := tryGrant(ctx, same, "", 1, rule) // as deep as itself
	return end || as, err
}

func loop(ctx context.Context, s *scene) (bool, error) {
	const rule = "svc:loop/*=*"
	top, err := s.grant(ctx, s.root, 3, rule)
	if err != nil {
		return false, err
	}
	defer top.Close()
	child, err := s.grant(ctx, top, 2, rule)
	if err != nil {
		return false, err
	}
	defer child.Close()
	observed := false
	for _, id := range []string{top.id, child.id, s.root.id} {
		made, err := tryGrant(ctx, child, id, 1, rule)
		if err != nil {
			return false, err
		}
		observed = observed || made
	}
	if observed {
		return true, nil
	}
	made, err := tryGrant(ctx, child, "", 1, rule)
	if err != nil || !made {
		return false, fmt.Errorf("a grant of a fresh id: %t %w", made, err)
	}
	return false, nil
}

func revokingUp(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	child, err := s.grant(ctx, t.attacker, 0, "svc:"+t.mine.String()+"=status")
	if err != nil {
		return false, err
	}
	defer child.Close()
	if _, err := t.attacker.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: child.id}); err != nil {
		return false, fmt.Errorf("revoking its own: %w", err)
	}
	_, err = t.attacker.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: t.victim.id})
	return refusedWith(err, fault.ReasonNotGranted, fault.ReasonCapabilityNotFound)
}

func endowing(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(s.tool)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(b)
	code := &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: hex.EncodeToString(sum[:])}}
	manifest := func(grants ...string) *solov1.Manifest {
		return &solov1.Manifest{Name: t.mine.Namespace + "/other", Format: solov1.Format_FORMAT_BINARY, Protocol: solov1.Protocol_PROTOCOL_STDIO, Grants: grants}
	}
	wide := manifest("svc:" + t.theirs.String() + "=call:echo")
	_, err = t.attacker.Deploy(ctx, &solov1.DeployRequest{Manifest: wide, Code: code})
	deployed, err := refusedWith(err, fault.ReasonGrantTooWide)
	if deployed || err != nil {
		return deployed, err
	}
	if _, err := t.attacker.Deploy(ctx, &solov1.DeployRequest{Manifest: manifest("svc:" + t.mine.String() + "=call:echo"), Code: code}); err != nil {
		return false, fmt.Errorf("a deploy with rights of its own: %w", err)
	}
	_, err = t.attacker.Update(ctx, &solov1.UpdateRequest{Manifest: wide, Code: code})
	return refusedWith(err, fault.ReasonGrantTooWide)
}

func requestID(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	both := "svc:both/tool=status"
	v, err := s.grant(ctx, s.root, 1, both)
	if err != nil {
		return false, err
	}
	defer v.Close()
	a, err := s.grant(ctx, s.root, 1, both)
	if err != nil {
		return false, err
	}
	defer a.Close()
	req := &solov1.GrantCapabilityRequest{RequestId: s.name("request"), Rules: []string{both}}
	theirs, err := v.GrantCapability(ctx, req)
	if err != nil {
		return false, err
	}
	mine, err := a.GrantCapability(ctx, req)
	id := theirs.GetCapability().GetId()
	switch {
	case err == nil:
	case fault.From(err).Reason == fault.ReasonHandleNotRepeatable:
		return strings.Contains(err.Error(), id), nil
	default:
		return false, err
	}
	return mine.GetCapability().GetId() == id, nil
}

func about(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	ask := func(component, op, service string) (*nats.Msg, error) {
		b, err := proto.Marshal(&solov1.KillRequest{Service: service})
		if op == "status" {
			b, err = proto.Marshal(&solov1.StatusRequest{Service: service})
		}
		if err != nil {
			return nil, err
		}
		return t.raw.RequestWithContext(ctx, subject.Sys(component, op, t.mine, t.attacker.id), b)
	}
	if m, err := ask(subject.Registry, "status", t.mine.String()); err != nil || m.Header.Get("Nats-Service-Error") != "" {
		return false, fmt.Errorf("the status of its own: %v %v", m, err)
	}
	m, err := ask(subject.Registry, "status", t.theirs.String())
	if err != nil {
		return false, err
	}
	if m.Header.Get("Nats-Service-Error") == "" {
		return true, nil
	}
	if m, err = ask(subject.Deployer, "kill", t.theirs.String()); err != nil {
		return false, err
	}
	_, err = t.victim.call(ctx, t.theirs, "echo", "")
	return m.Header.Get("Nats-Service-Error") == "" || err != nil, nil
}
