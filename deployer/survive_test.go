package deployer_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// killRunners kills every runner and waits until they are gone.
func killRunners(t *testing.T, w *world) {
	t.Helper()
	old := w.helpers(t, "solo-runner")
	for _, pid := range old {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

func TestADeadRunnerIsReplacedWithAllItHeld(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	mustDeploy(t, w.root, manifest("acme/two", wasm), archive(kitchen(t)))
	mustDeploy(t, w.root, manifest("other/three", wasm), archive(kitchen(t)))
	for range 3 {
		if _, err := call(t, w.root, "acme/one", "incr", ""); err != nil {
			t.Fatal(err)
		}
	}
	before := w.registry.Get("acme/one").GetEpoch()
	killRunners(t, w)
	for _, s := range []string{"acme/one", "acme/two", "other/three"} {
		awaitCall(t, w.root, s, "echo", "back", "back")
	}
	if got, err := call(t, w.root, "acme/one", "incr", ""); err != nil || got != "4" {
		t.Errorf("state: %q %v", got, err)
	}
	w.registry.Await(t, "acme/one", func(r *kernelv1.Registration) bool { return running(r) && r.GetEpoch() > before })
	w.registry.AwaitEvent(t, "acme/one", "interrupted")
}

func TestADeadKeeperIsReplaced(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	if got, err := call(t, w.root, "acme/one", "incr", ""); err != nil || got != "1" {
		t.Fatal(got, err)
	}
	for _, pid := range w.helpers(t, "solo-keeper") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// A write may find no keeper for a moment; what was answered before is there.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		got, err := call(t, w.root, "acme/one", "incr", "")
		if err == nil {
			if n, _ := strconv.Atoi(got); n < 2 {
				t.Fatalf("state was lost: %q", got)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestANewDeployerAdoptsWhatRuns(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	if got, err := call(t, w.root, "acme/one", "count", ""); err != nil || got != "1" {
		t.Fatal(got, err)
	}
	epoch := w.registry.Get("acme/one").GetEpoch()
	keeper := w.helpers(t, "solo-keeper")
	w.deployer.Stop(t)
	// Without a deployer it goes on answering.
	if got, err := call(t, w.root, "acme/one", "count", ""); err != nil || got != "2" {
		t.Fatal(got, err)
	}
	w.run(t)
	// The very same instance, which counts in its memory, answers.
	if got, err := call(t, w.root, "acme/one", "count", ""); err != nil || got != "3" {
		t.Fatalf("%q %v: it was started again", got, err)
	}
	if now := w.helpers(t, "solo-keeper"); len(now) != 1 || now[0] != keeper[0] {
		t.Errorf("keeper %v, before %v", now, keeper)
	}
	if r := w.registry.Get("acme/one"); r.GetEpoch() != epoch || !running(r) {
		t.Errorf("%v", r)
	}
	w.registry.AwaitReport(t, func(r *kernelv1.ReportRequest) bool { return len(r.GetPlacements()) == 1 })
	// And the new one is obeyed.
	mustDeploy(t, w.root, manifest("acme/two", wasm), archive(kitchen(t)))
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/one", &solov1.KillRequest{Service: "acme/one"}); err != nil {
		t.Fatal(err)
	}
}

func TestANewDeployerPutsRightWhatTheOldOneLeft(t *testing.T) {
	w := start(t)
	for _, s := range []string{"acme/stopped", "acme/claimed", "acme/lost", "acme/dead"} {
		mustDeploy(t, w.root, manifest(s, wasm), archive(kitchen(t)))
	}
	w.deployer.Stop(t)
	// Killed, but its deployer died before the placement was removed.
	w.registry.Edit("acme/stopped", func(r *kernelv1.Registration) {
		r.DesiredRunning, r.Revision, r.State = false, 0, solov1.ServiceState_SERVICE_STATE_STOPPED
	})
	// Placed, but its deployer died before it could say so.
	w.registry.Edit("acme/claimed", func(r *kernelv1.Registration) { r.State = solov1.ServiceState_SERVICE_STATE_STARTING })
	// Claimed, and its deployer died before it was placed: what runs is of an older epoch.
	w.registry.Edit("acme/lost", func(r *kernelv1.Registration) {
		r.Epoch, r.State = r.Epoch+5, solov1.ServiceState_SERVICE_STATE_STARTING
	})
	epoch := w.registry.Get("acme/lost").GetEpoch()
	w.run(t)
	w.registry.Await(t, "acme/claimed", running)
	w.registry.Await(t, "acme/lost", func(r *kernelv1.Registration) bool { return running(r) && r.GetEpoch() > epoch })
	awaitCall(t, w.root, "acme/lost", "echo", "x", "x")
	awaitCall(t, w.root, "acme/claimed", "echo", "x", "x")
	w.registry.AwaitReport(t, func(r *kernelv1.ReportRequest) bool { return len(r.GetPlacements()) == 3 })
	if _, err := call(t, w.root, "acme/stopped", "echo", ""); err == nil {
		t.Error("a stopped service answers")
	}
}

func TestAnInterruptedUpdateGoesBack(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	w.deployer.Stop(t)
	w.registry.Edit("acme/one", func(r *kernelv1.Registration) {
		bad := &kernelv1.Revision{Number: 2, Manifest: manifest("acme/one", wasm), CodeSha256: r.GetRevisions()[0].GetCodeSha256(), DeployedBy: w.root.ID}
		bad.Manifest.Env = map[string]string{"FAIL_INIT": "1"}
		bad.Manifest.Replicas = 1
		r.Revisions, r.Revision, r.LastRevision, r.Epoch = append(r.Revisions, bad), 2, 2, r.Epoch+1
		r.State = solov1.ServiceState_SERVICE_STATE_UPDATING
		r.Rollout = &solov1.Rollout{Id: "x", FromRevision: 1, ToRevision: 2, State: solov1.RolloutState_ROLLOUT_STATE_RUNNING}
	})
	w.run(t)
	r := w.registry.Await(t, "acme/one", func(r *kernelv1.Registration) bool { return running(r) && r.GetRevision() == 1 })
	if r.GetRollout().GetState() != solov1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
		t.Errorf("%v", r.GetRollout())
	}
	awaitCall(t, w.root, "acme/one", "echo", "x", "x")
}

func TestDrainingLeavesNoProcess(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	mustDeploy(t, w.root, manifest("other/echo", binary), archive(native(t)))
	if got, err := call(t, w.root, "acme/one", "incr", ""); err != nil || got != "1" {
		t.Fatal(got, err)
	}
	w.drain(t)
	for _, name := range []string{"solo-runner", "solo-keeper"} {
		if pids := w.helpers(t, name); len(pids) > 0 {
			t.Errorf("%s: %v", name, pids)
		}
	}
	if r := w.registry.Get("acme/one"); !running(r) || !r.GetDesiredRunning() {
		t.Errorf("a planned end is no kill: %v", r)
	}
	w.run(t)
	awaitCall(t, w.root, "acme/one", "incr", "", "2")
	awaitCall(t, w.root, "other/echo", "echo", "x", "x")
}

func TestAServiceThatCrashesTooOftenIsFailed(t *testing.T) {
	w := start(t)
	m := manifest("acme/crash", binary)
	m.Restart = &solov1.RestartPolicy{Max: 1}
	mustDeploy(t, w.root, m, archive(native(t)))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for w.registry.Get("acme/crash").GetState() != solov1.ServiceState_SERVICE_STATE_FAILED {
		if _, err := callWithin(t, time.Second, w.root, "acme/crash", "exit", ""); err == nil {
			t.Fatal("an exit was answered")
		}
		if ctx.Err() != nil {
			t.Fatal(w.registry.Get("acme/crash"))
		}
	}
	if w.registry.Get("acme/crash").GetLastError() == "" {
		t.Error("it does not say why")
	}
	w.registry.AwaitEvent(t, "acme/crash", "crashed")
	w.registry.AwaitEvent(t, "acme/crash", "failed")
	for {
		r, err := ask[solov1.CrashesResponse](t, w.root, "crashes", "acme/crash", &solov1.CrashesRequest{Service: "acme/crash"})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetCrashes()) > 0 {
			if c := r.GetCrashes()[0]; c.GetId() == "" || c.GetKind() == "" || c.GetService() != "acme/crash" {
				t.Errorf("%v", c)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatal("no crash record")
		}
	}
}

func TestAnInstanceIsKilledAndComesBack(t *testing.T) {
	w := start(t)
	r := mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	id := r.GetService().GetInstances()[0].GetId()
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/one", &solov1.KillRequest{Service: "acme/one", Instance: "nothing"}); !fault.Is(err, fault.ReasonInstanceNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/one", &solov1.KillRequest{Service: "acme/one", Instance: id, Purge: true}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("%v", err)
	}
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/one", &solov1.KillRequest{Service: "acme/one", Instance: id}); err != nil {
		t.Fatal(err)
	}
	awaitCall(t, w.root, "acme/one", "echo", "back", "back")
}

func TestLogsAreKeptAndFollowed(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	s, err := subject.ParseService("acme/one")
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.root.Open(t.Context(), subject.Deployer, "logs", s, &solov1.LogsRequest{Service: "acme/one", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := call(t, w.root, "acme/one", "print", "hello"); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for len(seen) < 3 {
		var m solov1.LogsResponse
		if err := r.Next(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(m.GetRecord().GetLine(), "hello") {
			seen = append(seen, m.GetRecord().GetStream()+" "+m.GetRecord().GetLine())
			if m.GetRecord().GetInstance() == "" || m.GetRecord().GetSequence() == 0 {
				t.Errorf("%v", m.GetRecord())
			}
		}
	}
	all := strings.Join(seen, "\n")
	for _, want := range []string{"stdout out hello", "stderr err hello", "log log hello"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in %q", want, all)
		}
	}
	tail, err := w.root.Open(t.Context(), subject.Deployer, "logs", s, &solov1.LogsRequest{Service: "acme/one", Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var m solov1.LogsResponse
	if err := tail.Next(t.Context(), &m); err != nil {
		t.Fatal(err)
	}
	if err := tail.Next(t.Context(), &m); !errors.Is(err, rpc.ErrEnd) {
		t.Errorf("a tail of one goes on: %v %v", &m, err)
	}
}

func TestSampleAndEnforce(t *testing.T) {
	w := start(t)
	r := mustDeploy(t, w.root, manifest("acme/one", wasm), archive(kitchen(t)))
	p := w.Process(t, subject.Resmon)
	var s kernelv1.SampleAllResponse
	if err := p.Peer.Call(t.Context(), subject.Deployer, "sample", subject.Nothing(), &kernelv1.SampleAllRequest{}, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.GetPlacements()) != 1 || s.GetNode() != bustest.Node || s.GetHelperMemoryBytes() == 0 || s.GetPlacements()[0].GetInstances()[0].GetMemoryBytes() == 0 {
		t.Fatalf("%v", &s)
	}
	enforce := func(a solov1.LimitAction, instance, service string) error {
		return p.Peer.Call(t.Context(), subject.Deployer, "enforce", subject.Nothing(), &kernelv1.EnforceRequest{
			Service: service, Instance: instance, Action: a, Limit: "memory", Value: 2, Bound: 1,
		}, &kernelv1.EnforceResponse{})
	}
	if err := enforce(solov1.LimitAction_LIMIT_ACTION_THROTTLE, "", "acme/one"); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, w.root, "acme/one", "echo", ""); !fault.Is(err, fault.ReasonThrottled) {
		t.Errorf("throttled: %v", err)
	}
	awaitCall(t, w.root, "acme/one", "echo", "x", "x")
	if err := enforce(solov1.LimitAction_LIMIT_ACTION_WARN, "", "acme/one"); err != nil {
		t.Error(err)
	}
	if err := enforce(solov1.LimitAction_LIMIT_ACTION_KILL, r.GetService().GetInstances()[0].GetId(), "acme/one"); err != nil {
		t.Error(err)
	}
	awaitCall(t, w.root, "acme/one", "echo", "x", "x")
	for _, err := range []error{
		enforce(solov1.LimitAction_LIMIT_ACTION_KILL, "", "acme/one"), enforce(0, "", "acme/one"), enforce(solov1.LimitAction_LIMIT_ACTION_WARN, "", "no/thing"),
	} {
		if err == nil {
			t.Error("enforced nonsense")
		}
	}
	w.registry.AwaitEvent(t, "acme/one", "limit")
}
