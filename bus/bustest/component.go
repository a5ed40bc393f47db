package bustest

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/fence"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Boot gives a component a fresh identity and returns the message that the kernel would send
// it. listen names addresses as in the message; those not named are on free ports.
func (w *World) Boot(t testing.TB, component string, listen map[string]string) *kernelv1.ComponentBoot {
	t.Helper()
	h := NewHandle(t)
	w.identify(t, h.ID, component)
	b := &kernelv1.ComponentBoot{
		Component: component, Seed: h.Seed, KernelId: w.KernelID, NatsAddr: w.Server.OwnAddr(), Node: Node, Home: w.Home,
		Listen: map[string]string{"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "metrics": "127.0.0.1:0"}, BootEpoch: 1, LogLevel: "warn",
	}
	maps.Copy(b.Listen, listen)
	if component == subject.Capmgr {
		b.RootId, b.ChainSeed = w.Root.ID, w.seed
	}
	return b
}

// Process connects as a component: a test is then that component itself.
func (w *World) Process(t testing.TB, component string) *daemon.Process {
	t.Helper()
	p, err := daemon.Connect(t.Context(), w.Boot(t, component, nil), w.Log, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Running is a component that runs inside the test's process.
type Running struct {
	ID string
	// Addresses where it listens, by name.
	Addresses map[string]string

	stop  context.CancelFunc
	ended chan struct{}
	err   error
	p     *daemon.Process
}

// Run starts a component and returns when it is ready. It ends with the test, or by Stop.
func (w *World) Run(t testing.TB, c daemon.Command, listen map[string]string) *Running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p, err := daemon.Connect(ctx, w.Boot(t, c.Component, listen), w.Log, cancel)
	if err != nil {
		cancel()
		t.Fatalf("%s: %v", c.Component, err)
	}
	w.mu.Lock()
	delete(w.ready, c.Component)
	w.mu.Unlock()
	r := &Running{ID: p.Peer.ID, stop: cancel, ended: make(chan struct{}), p: p}
	go func() {
		defer close(r.ended)
		r.err = c.Run(ctx, p)
	}()
	t.Cleanup(func() { r.Stop(t) })
	r.Addresses = w.wait(t, c.Component, r.ended)
	return r
}

// Stop ends the component as SIGTERM would, waits for it, and fails the test if it ended with
// an error. It may be called more than once.
func (r *Running) Stop(t testing.TB) {
	t.Helper()
	r.stop()
	<-r.ended
	if r.p == nil {
		return
	}
	r.p.Close()
	r.p = nil
	if r.err != nil && !errors.Is(r.err, context.Canceled) {
		t.Errorf("component ended: %v", r.err)
	}
}

func (w *World) onReady(_ string, who fence.Identity, addresses map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if addresses == nil {
		addresses = map[string]string{}
	}
	w.ready[who.Role] = addresses
	close(w.changed)
	w.changed = make(chan struct{})
}

// WaitReady returns the addresses of a component once it has said that it is ready.
func (w *World) WaitReady(t testing.TB, component string) map[string]string {
	t.Helper()
	return w.wait(t, component, nil)
}

func (w *World) wait(t testing.TB, component string, ended <-chan struct{}) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		w.mu.Lock()
		a, ok := w.ready[component]
		changed := w.changed
		w.mu.Unlock()
		if ok {
			return a
		}
		select {
		case <-changed:
		case <-ended:
			t.Fatalf("%s ended before it was ready", component)
		case <-ctx.Done():
			t.Fatalf("%s did not become ready", component)
		}
	}
}
