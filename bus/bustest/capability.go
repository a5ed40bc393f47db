package bustest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/fence"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Everything is the rules of the first operator.
func Everything() []string {
	return []string{"svc:*/*=*", "audit=*", "kernel=*", "egress:*:*=*"}
}

// Append stores events in the chain and brings them into force, as the capability manager
// does. It is for worlds in which no capability manager runs.
func (w *World) Append(t testing.TB, events ...*kernelv1.CapEvent) fence.Change {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if w.js == nil {
		h := NewHandle(t)
		w.identify(t, h.ID, subject.Capmgr)
		w.store = w.dial(t, h)
		js, err := jetstream.New(w.store)
		if err != nil {
			t.Fatal(err)
		}
		w.js = js
	}
	for _, ev := range events {
		ev.Time = timestamppb.Now()
		rec, next, err := w.link.Seal(w.chain, ev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.Publish(ctx, subject.Caps, rec, jetstream.WithExpectLastSequence(w.link.Sequence)); err != nil {
			t.Fatalf("append to the chain: %v", err)
		}
		w.link = next
		if err := caps.SaveHead(filepath.Join(w.Home, "caps.head"), w.chain, w.link); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.Fence.Apply(ctx, events)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Record appends one capability; what is empty in it gets a useful value.
func (w *World) Record(t testing.TB, r *kernelv1.CapRecord) {
	t.Helper()
	w.root(t)
	if r.Kind == kernelv1.CapKind_CAP_KIND_UNSPECIFIED {
		r.Kind = kernelv1.CapKind_CAP_KIND_HOLDER
	}
	if r.Parent == "" && r.Kind != kernelv1.CapKind_CAP_KIND_SERVING && r.Id != w.Root.ID {
		r.Parent = w.Root.ID
	}
	r.GrantedAt = timestamppb.Now()
	w.Append(t, &kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: r}})
}

// root makes the root record unless the chain has one.
func (w *World) root(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	first := w.link.Sequence == 0
	w.mu.Unlock()
	if first {
		w.Append(t, &kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
			Id: w.Root.ID, Label: "root", Rules: Everything(), Depth: 16, Kind: kernelv1.CapKind_CAP_KIND_HOLDER, GrantedAt: timestamppb.Now(),
		}}})
	}
}

// Grant gives a fresh holder rules, for an hour.
func (w *World) Grant(t testing.TB, rules ...string) Handle {
	t.Helper()
	return w.GrantFrom(t, w.Root.ID, time.Hour, rules...)
}

// GrantFrom gives a fresh holder rules from a parent, for a time.
func (w *World) GrantFrom(t testing.TB, parent string, ttl time.Duration, rules ...string) Handle {
	t.Helper()
	h := NewHandle(t)
	w.Record(t, &kernelv1.CapRecord{Id: h.ID, Parent: parent, Rules: rules, ExpiresAt: timestamppb.New(time.Now().Add(ttl))})
	return h
}

// Revoke kills a capability and its subtree and tells what that took.
func (w *World) Revoke(t testing.TB, id string) fence.Change {
	t.Helper()
	return w.Append(t, &kernelv1.CapEvent{Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: id, By: w.Root.ID}}})
}

// Endow makes the records of a service and a key bound to each: one to answer with, and one to
// call out with by the rules.
func (w *World) Endow(t testing.TB, service string, revision uint64, rules ...string) (serving, calling Handle) {
	t.Helper()
	bind := func(parent string) Handle {
		h := NewHandle(t)
		w.Record(t, &kernelv1.CapRecord{
			Id: h.ID, Parent: parent, Kind: kernelv1.CapKind_CAP_KIND_BOUND, Service: service, Epoch: 1, Node: Node, Revision: revision,
		})
		return h
	}
	answer := NewHandle(t).ID
	w.Record(t, &kernelv1.CapRecord{Id: answer, Kind: kernelv1.CapKind_CAP_KIND_SERVING, Service: service})
	ask := NewHandle(t).ID
	w.Record(t, &kernelv1.CapRecord{Id: ask, Kind: kernelv1.CapKind_CAP_KIND_SERVICE, Service: service, Rules: rules})
	return bind(answer), bind(ask)
}
