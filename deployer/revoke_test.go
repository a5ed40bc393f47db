package deployer_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// newer is an update of acme/kitchen to other limits.
func newer() *solov1.UpdateRequest {
	m := manifest("acme/kitchen", wasm)
	m.Env, m.Grants = map[string]string{"A": "newer"}, []string{"svc:acme/other=call:x"}
	return &solov1.UpdateRequest{Manifest: m}
}

func update(t *testing.T, p rpc.Peer) error {
	_, err := ask[solov1.UpdateResponse](t, p, "update", "acme/kitchen", newer())
	return err
}

// unchanged checks that the first revision runs, in the instance that ran.
func unchanged(t *testing.T, w *world, instance string) {
	t.Helper()
	r := w.registry.Get("acme/kitchen")
	if !running(r) || r.GetRevision() != 1 || !r.GetDesiredRunning() {
		t.Errorf("%v", r)
	}
	w.registry.AwaitReport(t, func(r *kernelv1.ReportRequest) bool {
		return len(r.GetPlacements()) == 1 && len(r.GetPlacements()[0].GetInstances()) == 1 && r.GetPlacements()[0].GetInstances()[0].GetId() == instance
	})
}

// While a deploy's rights are being made, its holder is revoked: after that answer nothing may start.
func TestAttackADeployOutlivesItsHolder(t *testing.T) {
	w := start(t)
	p := w.holder(t, bustest.Everything()...)
	w.authority.OnEndow(func(r *kernelv1.EndowRequest) {
		if !r.GetValidateOnly() {
			w.Revoke(t, p.ID)
		}
	})
	m := archive(kitchen(t))
	_, _ = deploy(t, p, manifest("acme/kitchen", wasm), m) // nobody hears the answer: the connection is cut
	w.authority.OnEndow(nil)
	// The service's turn comes when the deploy is over.
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen"}); !fault.Is(err, fault.ReasonServiceNotFound) {
		t.Errorf("it was deployed: %v", err)
	}
	if w.authority.Records("acme/kitchen") != nil {
		t.Error("it keeps rights")
	}
}

func TestAttackAnUpdateOutlivesItsHolder(t *testing.T) {
	w := start(t)
	first := mustDeploy(t, w.root, manifest("acme/kitchen", wasm), archive(kitchen(t)))
	instance := first.GetService().GetInstances()[0].GetId()

	// Revoked before the old revision has stopped: it is not stopped.
	early := w.holder(t, bustest.Everything()...)
	var once sync.Once
	w.authority.OnEndow(func(*kernelv1.EndowRequest) { once.Do(func() { w.Revoke(t, early.ID) }) })
	_ = update(t, early) // as above
	w.authority.OnEndow(nil)
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen", Etag: "1"}); !fault.Is(err, fault.ReasonConflict) {
		t.Fatal(err)
	}
	unchanged(t, w, instance)

	// Revoked while the old revision finishes its calls: it comes back.
	late := w.holder(t, bustest.Everything()...)
	go func() { _, _ = callWithin(t, 20*time.Second, w.root, "acme/kitchen", "spin", "") }() // cut with the old revision
	busy(t, w)
	updated := make(chan struct{})
	go func() {
		defer close(updated)
		_ = update(t, late)
	}()
	awaitNoAnswer(t, w)
	w.Revoke(t, late.ID)
	<-updated
	r := w.registry.Await(t, "acme/kitchen", func(r *kernelv1.Registration) bool { return running(r) && r.GetEpoch() > 1 })
	if r.GetRevision() != 1 || r.GetRollout().GetState() != solov1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
		t.Errorf("%v", r)
	}
	if got, err := call(t, w.root, "acme/kitchen", "env", "A"); err != nil || got != "" {
		t.Errorf("%q %v", got, err)
	}
}

// busy waits until the service's one instance is occupied.
func busy(t *testing.T, w *world) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := callWithin(t, time.Second, w.root, "acme/kitchen", "echo", ""); err != nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("no call began")
		}
	}
}

// awaitNoAnswer waits until a service takes no more calls.
func awaitNoAnswer(t *testing.T, w *world) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := callWithin(t, 100*time.Millisecond, w.root, "acme/kitchen", "echo", ""); fault.Is(err, fault.ReasonUnavailable) {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("it goes on answering")
		}
	}
}

// What waits for its turn while its holder is revoked does nothing when its turn comes.
func TestAttackAKillOutlivesItsHolder(t *testing.T) {
	w := start(t)
	first := mustDeploy(t, w.root, manifest("acme/kitchen", wasm), archive(kitchen(t)))
	instance := first.GetService().GetInstances()[0].GetId()
	kv, err := w.Process(t, subject.Deployer).JS.KeyValue(t.Context(), stream.Requests)
	if err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]*solov1.KillRequest{
		"service":  {Service: "acme/kitchen"},
		"purge":    {Service: "acme/kitchen", Purge: true},
		"instance": {Service: "acme/kitchen", Instance: instance},
	} {
		p := w.holder(t, bustest.Everything()...)
		entered, leave := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.authority.OnEndow(func(*kernelv1.EndowRequest) { once.Do(func() { close(entered); <-leave }) })
		refused := make(chan error, 1)
		go func() {
			bad := newer()
			bad.Code = archive([]byte("no module")) // it holds the service's turn, and fails then
			_, err := ask[solov1.UpdateResponse](t, w.root, "update", "acme/kitchen", bad)
			refused <- err
		}()
		<-entered
		seen, err := kv.WatchAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for u := range seen.Updates() {
			if u == nil {
				break // what follows is new
			}
		}
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			req.RequestId = name
			_, _ = ask[solov1.KillResponse](t, p, "kill", "acme/kitchen", req)
		}()
		<-seen.Updates() // the kill is known, and the service's turn is taken
		w.Revoke(t, p.ID)
		w.authority.OnEndow(nil)
		close(leave)
		<-killed
		if err := <-refused; err == nil {
			t.Fatal("a bad update was done")
		}
		if err := seen.Stop(); err != nil {
			t.Fatal(err)
		}
		// The next turn comes when that of the kill is over.
		if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen", Etag: "1"}); !fault.Is(err, fault.ReasonConflict) {
			t.Fatalf("%s: %v", name, err)
		}
		unchanged(t, w, instance)
	}
}
