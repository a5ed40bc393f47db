package fence

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/gate"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

const (
	// AckTime is how long a gate may take to acknowledge a change.
	AckTime = 250 * time.Millisecond
	// LeaseTime is how long a gate may act on one lease; LeaseEvery is how often it gets one.
	LeaseTime  = 2 * time.Second
	LeaseEvery = 400 * time.Millisecond
)

// Change tells what a change took to come into force.
type Change struct {
	// Gates that know it, and gates that did not answer and were cut off.
	Gates, GatesCut int
	// Connections of what died.
	ConnectionsCut int
}

// Apply brings events into force on the whole node. Events applied before are passed over. A
// gap is gate.ErrGap and changes nothing beyond the last event that fits.
func (f *Fence) Apply(ctx context.Context, events []*kernelv1.CapEvent) (Change, error) {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	before := f.table.Sequence()
	died, err := f.table.Apply(events)
	after := f.table.Sequence()
	for _, ev := range events {
		if s := ev.GetSequence(); s > before && s <= after {
			f.events = append(f.events, ev)
		}
	}
	f.mu.Unlock()
	// What fits holds, even where a later event does not.
	c := Change{ConnectionsCut: f.Cut(died...)}
	c.Gates, c.GatesCut = f.push(ctx, &kernelv1.GatePush{Events: events}, after)
	return c, err
}

// Identify lets a process of Solo's own connect, and tells all gates who it is.
func (f *Fence) Identify(ctx context.Context, id string, who Identity) error {
	if !subject.ValidID(id) {
		return errors.New("fence: not a public key")
	}
	if _, err := component(who.Role, id); err != nil {
		return err
	}
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	f.identities[id] = who
	p := f.tellComponents()
	f.mu.Unlock()
	f.push(ctx, p, 0)
	return nil
}

// Dismiss takes an identity away, closes its connections and returns how many there were.
// When it returns, no gate takes the id for a component any more.
func (f *Fence) Dismiss(ctx context.Context, id string) int {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	if !check.On(check.Dismissal) {
		f.mu.Unlock()
		return 0
	}
	_, known := f.identities[id]
	delete(f.identities, id)
	delete(f.joined, id)
	p := f.tellComponents()
	f.mu.Unlock()
	if !known {
		return 0
	}
	n := f.Cut(id)
	f.push(ctx, p, 0)
	return n
}

// Identity is who a component's id stands for.
func (f *Fence) Identity(id string) (Identity, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	who, ok := f.identities[id]
	return who, ok
}

// Known tells whether an id is an identity: a process of Solo's own.
func (f *Fence) Known(id string) bool {
	_, ok := f.Identity(id)
	return ok
}

// Serves tells whether an id is a key that answers the calls to a service.
func (f *Fence) Serves(id string) bool {
	v, ok := f.table.Get(id)
	if !ok || v.Record.GetKind() != kernelv1.CapKind_CAP_KIND_BOUND {
		return false
	}
	parent, ok := f.table.Get(v.Record.GetParent())
	return ok && parent.Record.GetKind() == kernelv1.CapKind_CAP_KIND_SERVING
}

// tellComponents sets the table's own map and returns the push that carries it. mu is held.
func (f *Fence) tellComponents() *kernelv1.GatePush {
	own, sent := map[string]string{}, map[string]string{}
	for id, who := range f.identities {
		if who.Role != Bootstrap {
			own[id], sent[id] = who.Role, who.Role
		}
	}
	f.table.SetComponents(own)
	return &kernelv1.GatePush{Components: sent}
}

// push brings p to every gate at once and returns when each has acknowledged seq, or has been
// cut off and can act no more. applying is held.
func (f *Fence) push(ctx context.Context, p *kernelv1.GatePush, seq uint64) (acked, cut int) {
	targets := f.targets()
	if len(targets) == 0 || f.nc == nil || len(p.GetEvents()) > 0 && !check.On(check.Shootdown) {
		return 0, 0
	}
	b, err := proto.Marshal(p)
	if err != nil {
		f.o.Log.Error("a push cannot be encoded", "error", err)
		b = nil // every gate then fails to acknowledge and is cut: closed, not open
	}
	var mu sync.Mutex
	var left []dropped
	var wg sync.WaitGroup
	for id, joined := range targets {
		wg.Go(func() {
			begin := time.Now()
			err := f.pushOne(id, b, seq)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				acked++
				return
			}
			if !joined && errors.Is(err, nats.ErrNoResponders) {
				return // it has connected and is no gate yet
			}
			// An answer that comes much too late says that the whole machine was held up, and not this gate.
			hung := joined && time.Since(begin) < 2*AckTime
			if d := f.drop(id, hung, err); d.until > 0 {
				mu.Lock()
				defer mu.Unlock()
				cut++
				left = append(left, d)
			}
		})
	}
	wg.Wait()
	await(ctx, left)
	return acked, cut
}

// dropped is a gate that was cut off.
type dropped struct {
	p process
	// until is the boot time until which it may act; 0 when its process has ended.
	until int64
}

// await returns when none of those that were cut off can act any more: its process has ended, or its
// lease. When ctx ends the fence itself is ending, and nobody is answered any more.
func await(ctx context.Context, left []dropped) {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		now := gate.Boottime()
		left = slices.DeleteFunc(left, func(d dropped) bool { return d.until <= now || d.p.gone() })
		if len(left) == 0 {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// targets are all gates: those that joined, and components that are connected, which may be
// on their way of joining again.
func (f *Fence) targets() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]bool{}
	for id, who := range f.identities {
		if who.Role == subject.Kernel || who.Role == Bootstrap {
			continue
		}
		if _, joined := f.joined[id]; joined {
			out[id] = true
		} else if len(f.byID[id]) > 0 {
			out[id] = false
		}
	}
	return out
}

func (f *Fence) pushOne(id string, b []byte, seq uint64) error {
	m, err := f.nc.Request(subject.GatePush(id), b, AckTime)
	if err != nil {
		return err
	}
	var a kernelv1.GateAck
	if err := proto.Unmarshal(m.Data, &a); err != nil {
		return err
	}
	if a.GetSequence() < seq {
		return errors.New("it acknowledged an older state")
	}
	return nil
}

// drop cuts a gate off and returns until when it may still act. One that hangs is reported.
func (f *Fence) drop(id string, hung bool, cause error) dropped {
	f.mu.Lock()
	p, who := f.joined[id], f.identities[id]
	delete(f.joined, id)
	f.mu.Unlock()
	n := f.Cut(id)
	until := f.lease.Load() // after the cut: no lease given later has reached it
	if p.gone() {
		return dropped{}
	}
	if hung && f.o.Hung != nil && check.On(check.Lease) {
		f.o.Hung(id, who)
	}
	f.o.Log.Warn("a gate did not acknowledge a change and was cut off", "role", who.Role, "namespace", who.Namespace, "id", id, "connections", n, "hung", hung, "error", cause)
	return dropped{p, until}
}

// renew moves the lease forward and returns it. It waits for nobody: a lease that comes late stops
// the whole node.
func (f *Fence) renew() *kernelv1.GateLease {
	until := gate.Boottime() + int64(LeaseTime)
	f.lease.Store(until)
	f.table.SetLease(until)
	return &kernelv1.GateLease{Sequence: f.table.Sequence(), DeadlineBoottimeNs: until, ClockLeadNs: f.table.Lead()}
}
