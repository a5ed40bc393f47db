package runner_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/deployer/internal/runner"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func TestWASMService(t *testing.T) {
	r := start(t)
	m := wasm("acme/kitchen")
	m.Env, m.Replicas = map[string]string{"NAME": "solo"}, 2
	req := r.request(m, code.kitchen)
	resp := r.place(req)
	if len(resp.GetPlacement().GetInstances()) != 2 || resp.GetEnforcement()[0] != "memory: hard" {
		t.Errorf("placed %v", resp)
	}
	r.want("acme/kitchen", "echo", "hello", "hello")
	r.want("acme/kitchen", "env", "NAME", "solo")
	r.want("acme/kitchen", "caller", "", r.w.Root.ID)
	r.want("acme/kitchen", "print", "x", "")
	r.eventually("log lines", func() bool {
		l := lines(r)
		return strings.Contains(l, "stdout  out x") && strings.Contains(l, "stderr  err x") && strings.Contains(l, "log warn log x k=v g.n=1")
	})
	for op, reason := range map[string]string{"nope": fault.ReasonOperationUnknown, "fail": fault.ReasonServiceError} {
		if _, err := r.call("acme/kitchen", op, "x"); !fault.Is(err, reason) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if again := r.place(req); len(again.GetPlacement().GetInstances()) != 2 {
		t.Errorf("placed again: %v", again)
	}
	s := r.sample()
	if p := s.GetPlacements()[0]; p.GetCalls() < 6 || p.GetErrors() != 2 || p.GetInstances()[0].GetMemoryBytes() == 0 || s.GetProcessMemoryBytes() == 0 {
		t.Errorf("sample %v", s)
	}
	r.remove("acme/kitchen")
	if _, err := r.call("acme/kitchen", "echo", ""); fault.From(err).Code != codes.Unavailable {
		t.Errorf("a removed service: %v", err)
	}
	r.remove("acme/kitchen")
}

// TestStateInOneProcess is TestStateAndItsSurvivors without deaths.
func TestStateInOneProcess(t *testing.T) {
	r := start(t)
	m := wasm("acme/counter")
	m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{{Match: "cache:*", Mode: solov1.StateMode_STATE_MODE_NONE}}}
	r.place(r.request(m, code.kitchen))
	for i := range 3 {
		r.want("acme/counter", "incr", "", fmt.Sprint(i+1))
	}
	r.want("acme/counter", "state", "batch cache:a 1 b 2", "")
	r.want("acme/counter", "state", "list ", "b cache:a n")
	r.want("acme/counter", "state", "delete b", "")
	r.want("acme/counter", "state", "delete cache:a", "")
	r.want("acme/counter", "state", "cas n 3 4", "true")
	_ = r.keeper.Process.Kill()
	_ = r.keeper.Wait()
	r.startKeeper()
	r.want("acme/counter", "incr", "", "5")
	_, _ = r.call("acme/counter", "panic", "")
	r.want("acme/counter", "state", "list ", "n")
	r.remove("acme/counter")
}

func TestWASICommandAndStdio(t *testing.T) {
	r := start(t)
	r.place(r.request(wasm("acme/upper"), code.upper))
	r.want("acme/upper", "upper", "hello", "HELLO")
	r.place(r.request(binary("acme/stdio", solov1.Protocol_PROTOCOL_STDIO), code.svc))
	r.want("acme/stdio", "echo", "hello", "hello")
	if _, err := r.call("acme/stdio", "nope", ""); !fault.Is(err, fault.ReasonServiceError) || !strings.Contains(err.Error(), "no operation") {
		t.Errorf("got %v", err)
	}
}

func TestHTTPService(t *testing.T) {
	r := start(t)
	m := binary("acme/web", solov1.Protocol_PROTOCOL_HTTP)
	resp := r.place(r.request(m, code.svc))
	if resp.GetEnforcement()[0] != "memory: sampled" {
		t.Errorf("enforcement %v", resp.GetEnforcement())
	}
	r.want("acme/web", "echo", "hello", "hello")
	r.want("acme/web", "caller", "", r.w.Root.ID)
	pid := int(resp.GetPlacement().GetInstances()[0].GetPid())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.eventually("it answers again", func() bool {
		got, err := r.call("acme/web", "echo", "again")
		if err != nil && !fault.Is(err, fault.ReasonInstanceCrashed) { // one sent as it died is lost with it
			t.Errorf("got %v", err)
		}
		return got == "again"
	})
	r.saw("a crash record", func(ev *nodev1.RunnerEvent) bool { return ev.GetCrash().GetKind() == "killed" })
	r.saw("a restart", func(ev *nodev1.RunnerEvent) bool { return ev.GetInstance().GetReason() == "restarted" })
}

// TestStartFailures places what cannot start: a typed error each, and nothing left.
func TestStartFailures(t *testing.T) {
	r := start(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	failing := wasm("acme/failing")
	failing.Env = map[string]string{"FAIL_INIT": "1"}
	exits := binary("acme/exits", solov1.Protocol_PROTOCOL_HTTP)
	exits.Env = map[string]string{"START": "exit"}
	small := wasm("acme/small")
	small.Limits = &solov1.Limits{MemoryBytes: 64 << 10}
	for reason, req := range map[string]*nodev1.PlaceRequest{
		fault.ReasonModuleInvalid:    r.request(wasm("acme/a"), text),
		fault.ReasonBinaryInvalid:    r.request(binary("acme/b", solov1.Protocol_PROTOCOL_HTTP), text),
		fault.ReasonStartFailed:      r.request(failing, code.kitchen),
		fault.ReasonMemoryLimit:      r.request(small, code.kitchen),
		fault.ReasonUnimplemented:    r.request(binary("acme/d", solov1.Protocol_PROTOCOL_NATS), code.svc),
		fault.ReasonInvalidArgument:  {DeployerEpoch: 1, Service: "other/x", Manifest: wasm("other/x")},
		fault.ReasonArtifactNotFound: {DeployerEpoch: 1, Service: "acme/e", Manifest: wasm("acme/e"), CodePath: "/nowhere", CodeSha256: strings.Repeat("0", 64)},
	} {
		if _, err := r.tryPlace(req); !fault.Is(fault.From(err), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if _, err := r.tryPlace(r.request(exits, code.svc)); !fault.Is(fault.From(err), fault.ReasonStartFailed) || !strings.Contains(err.Error(), "status 5") {
		t.Errorf("got %v", err)
	}
	if s := r.sample(); len(s.GetPlacements()) != 0 {
		t.Errorf("left %v", s)
	}
}

// TestCallsThatKill sends calls that end their instance, while other services go on: the caller gets
// the reason, the next call a fresh instance.
func TestCallsThatKill(t *testing.T) {
	r := start(t)
	m := wasm("acme/kitchen")
	m.Operations = []*solov1.Operation{
		{Name: "spin", Timeout: durationpb.New(100 * time.Millisecond)}, {Name: "panic"}, {Name: "hog"}, {Name: "exit"}, {Name: "count"}, {Name: "echo"},
	}
	m.Limits = &solov1.Limits{MemoryBytes: 24 << 20} // soon full, also with the race detector
	r.place(r.request(m, code.kitchen))
	r.place(r.request(wasm("acme/echo"), code.echo))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.want("acme/echo", "x", "hi", "hi")
			}
		}
	})
	for range 3 {
		for op, reason := range map[string]string{
			"spin": fault.ReasonDeadlineExceeded, "panic": fault.ReasonInstanceCrashed, "hog": fault.ReasonMemoryLimit, "exit": fault.ReasonInstanceCrashed,
		} {
			if _, err := r.call("acme/kitchen", op, "x"); !fault.Is(err, reason) {
				t.Errorf("%s: %v", op, err)
			}
			r.want("acme/kitchen", "count", "", "1")
		}
	}
	close(stop)
	wg.Wait()
	for _, kind := range []string{"deadline", "trap", "memory", "exit"} {
		ev := r.saw("crash "+kind, func(ev *nodev1.RunnerEvent) bool { return ev.GetCrash().GetKind() == kind })
		if c := ev.GetCrash(); len(c.GetId()) != 64 || c.GetService() != "acme/kitchen" || c.GetMessage() == "" {
			t.Errorf("crash %v", c)
		}
	}
	r.saw("memory limit", func(ev *nodev1.RunnerEvent) bool { return ev.GetLimit().GetLimit() == "memory" })
	if _, err := r.call("acme/kitchen", "burn", "1ms"); !fault.Is(err, fault.ReasonOperationUnknown) {
		t.Errorf("an operation that the manifest does not list: %v", err)
	}
	for _, p := range r.sample().GetPlacements() {
		if p.GetService() == "acme/kitchen" && p.GetInstances()[0].GetRestarts() != 12 {
			t.Errorf("%d restarts", p.GetInstances()[0].GetRestarts())
		}
	}
}

// TestStateAndItsSurvivors counts by compare-and-set over the death of keeper and runner.
func TestStateAndItsSurvivors(t *testing.T) {
	r := begin(t, true)
	m := wasm("acme/counter")
	m.Replicas = 2
	m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{
		{Match: "cache:*", Mode: solov1.StateMode_STATE_MODE_NONE},
		{Match: "disk", Mode: solov1.StateMode_STATE_MODE_DURABLE},
		{Match: "own:*", Mode: solov1.StateMode_STATE_MODE_EXTERNAL},
	}}
	m.Limits = &solov1.Limits{StateBytes: 10000}
	req := r.request(m, code.kitchen)
	r.place(req)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				if _, err := r.call("acme/counter", "incr", ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	state := func(words, want string) {
		t.Helper()
		r.want("acme/counter", "state", words, want)
	}
	state("get n", "100")
	state("put disk x", "")
	state("cas a - 1", "true")
	state("cas a - 2", "false")
	state("cas a 1 2", "true")
	state("cas a 2 -", "true")
	state("get a", "absent")
	state("batch b 1 c 2", "")
	state("delete b", "")
	state("put cache:x 1", "")
	state("list ", "c cache:x disk n")
	if _, err := r.call("acme/counter", "state", "put own:x 1"); err == nil {
		t.Error("an external key was kept")
	}
	if _, err := r.call("acme/counter", "state", "put big "+strings.Repeat("x", 10000)); err == nil || !strings.Contains(err.Error(), "quota") {
		t.Errorf("over the quota: %v", err)
	}

	// Nor is there more room for what is not kept.
	refused := false
	for i := 0; i < 100 && !refused; i++ {
		_, err := r.call("acme/counter", "state", "put cache:"+strconv.Itoa(i)+" "+strings.Repeat("x", 1000))
		refused = err != nil && strings.Contains(err.Error(), "quota")
		if err != nil && !refused || i > 9 && !refused {
			t.Fatalf("%d keys of mode none in 10000 bytes: %v", i, err)
		}
	}
	state("put cache:0 y", "") // smaller is always possible
	state("delete cache:1", "")
	state("put cache:1 z", "")

	_ = r.keeper.Process.Kill()
	_ = r.keeper.Wait()
	state("get n", "100")
	r.startKeeper()
	state("put after keeper", "")
	state("get after", "keeper")

	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.startRunner()
	req.Epoch = 2
	r.place(req)
	state("list ", "after c disk n")
	r.want("acme/counter", "incr", "", "101")
	r.remove("acme/counter")
}

func TestCallsOut(t *testing.T) {
	r := start(t)
	r.place(r.request(wasm("acme/echo"), code.echo))
	r.place(r.request(wasm("acme/kitchen"), code.kitchen, "svc:acme/echo=call:say"))
	r.want("acme/kitchen", "call", "acme/echo say hello", "hello")
	if _, err := r.call("acme/kitchen", "call", "acme/echo other hello"); err == nil || !strings.Contains(err.Error(), "may not call other of acme/echo") || !strings.Contains(err.Error(), "solo update") {
		t.Errorf("got %v", err)
	}
	if _, err := r.call("acme/kitchen", "call", "nonsense say hello"); err == nil {
		t.Error("a nonsensical service was called")
	}
	poor := wasm("acme/poor")
	r.place(r.request(poor, code.kitchen))
	if _, err := r.call("acme/poor", "call", "acme/echo say hello"); err == nil || !strings.Contains(err.Error(), "no rights") ||
		!strings.Contains(err.Error(), fault.ReasonNotGranted) || !strings.Contains(err.Error(), `"svc:acme/echo=call:say" to grants`) || !strings.Contains(err.Error(), "solo update") {
		t.Errorf("got %v", err)
	}
}

// TestMailbox fills the mailbox of a busy service.
func TestMailbox(t *testing.T) {
	r := start(t)
	m := wasm("acme/kitchen")
	m.Limits = &solov1.Limits{Mailbox: 4}
	r.place(r.request(m, code.kitchen))
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for range 12 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			defer cancel()
			_, err := r.callAs(ctx, r.root, r.w.Root.ID, "acme/kitchen", "sleep", "250ms")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got["ok"]++
				return
			}
			f := fault.From(err)
			got[f.Reason]++
			if f.Reason == fault.ReasonMailboxFull && (!f.Retryable || f.RetryAfter <= 0) {
				t.Errorf("no retry time: %+v", f)
			}
		})
	}
	wg.Wait()
	if got["ok"] < 1 || got[fault.ReasonMailboxFull] < 7 || got[fault.ReasonDeadlineExceeded] < 1 {
		t.Errorf("got %v", got)
	}
	r.saw("the hard mark", func(ev *nodev1.RunnerEvent) bool {
		return ev.GetLimit().GetLimit() == "mailbox" && ev.GetLimit().GetMark() == "hard"
	})
	r.saw("the soft mark", func(ev *nodev1.RunnerEvent) bool { return ev.GetLimit().GetMark() == "soft" })
	r.want("acme/kitchen", "echo", "after", "after")
}

func TestThrottleAndRate(t *testing.T) {
	r := start(t)
	m := wasm("acme/echo")
	m.Limits = &solov1.Limits{CallsPerSecond: 1}
	r.place(r.request(m, code.echo))
	r.want("acme/echo", "x", "1", "1")
	if _, err := r.call("acme/echo", "x", "2"); !fault.Is(err, fault.ReasonRateLimited) {
		t.Errorf("got %v", err)
	}
	throttle := func(until time.Time) {
		t.Helper()
		if _, err := r.client.Throttle(t.Context(), &nodev1.ThrottleRequest{DeployerEpoch: 1, Service: "acme/echo", Until: timestamppb.New(until)}); err != nil {
			t.Fatal(err)
		}
	}
	throttle(time.Now().Add(time.Hour))
	if _, err := r.call("acme/echo", "x", "3"); !fault.Is(err, fault.ReasonThrottled) {
		t.Errorf("got %v", err)
	}
	throttle(time.Now().Add(-time.Hour))
	if _, err := r.call("acme/echo", "x", "3"); fault.Is(err, fault.ReasonThrottled) {
		t.Errorf("got %v", err)
	}
	big := strings.Repeat("x", 1<<20+1)
	if _, err := r.call("acme/echo", "x", big); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("got %v", err)
	}
}

// TestGate revokes a holder: calls of it that wait already do not begin.
func TestGate(t *testing.T) {
	r := start(t)
	r.place(r.request(wasm("acme/kitchen"), code.kitchen))
	bob := r.w.Grant(t, "svc:acme/kitchen=call:count,call:sleep")
	nc := r.w.Dial(t, bob)
	if got, err := r.callAs(t.Context(), nc, bob.ID, "acme/kitchen", "count", ""); err != nil || got != "1" {
		t.Fatalf("%q, %v", got, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = r.call("acme/kitchen", "sleep", "5s") })
	r.eventually("the sleeper is busy", func() bool { return r.sample().GetPlacements()[0].GetCalls() == 1 })
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		wg.Go(func() {
			defer cancel()
			_, _ = r.callAs(ctx, nc, bob.ID, "acme/kitchen", "count", "")
		})
	}
	r.eventually("calls wait", func() bool { return r.sample().GetPlacements()[0].GetMailboxDepth() > 0 })
	r.w.Revoke(t, bob.ID)
	nc.Close()
	wg.Wait()
	r.want("acme/kitchen", "count", "", "2")
}

func TestSupervision(t *testing.T) {
	r := start(t)
	m := binary("acme/web", solov1.Protocol_PROTOCOL_HTTP)
	m.Restart = &solov1.RestartPolicy{Max: 2}
	resp := r.place(r.request(m, code.svc))
	id := resp.GetPlacement().GetInstances()[0].GetId()
	end := func(instance string) error {
		_, err := r.client.EndInstance(t.Context(), &nodev1.EndInstanceRequest{
			DeployerEpoch: 1, Service: "acme/web", Instance: instance, GracePeriod: durationpb.New(time.Second), Reason: "told so",
		})
		return err
	}
	if err := end("none"); !fault.Is(fault.From(err), fault.ReasonInstanceNotFound) {
		t.Errorf("got %v", err)
	}
	for range 4 { // what is asked for does not count
		if err := end(id); err != nil {
			t.Fatal(err)
		}
		r.want("acme/web", "echo", "x", "x")
		r.eventually("ready", func() bool {
			return r.sample().GetPlacements()[0].GetInstances()[0].GetState() == solov1.InstanceState_INSTANCE_STATE_READY
		})
	}
	for i := range 3 {
		if _, err := r.call("acme/web", "exit", ""); !fault.Is(err, fault.ReasonInstanceCrashed) {
			t.Errorf("exit %d: %v", i, err)
		}
	}
	ev := r.saw("failure", func(ev *nodev1.RunnerEvent) bool { return ev.GetInstance().GetPlacementFailed() })
	if !strings.Contains(ev.GetInstance().GetReason(), "too often") {
		t.Errorf("got %v", ev)
	}
	if _, err := r.call("acme/web", "echo", ""); fault.From(err).Code != codes.Unavailable {
		t.Errorf("a failed service: %v", err)
	}
	r.attach(2)
	if p := r.inventory.GetPlacements(); len(p) != 1 || !p[0].GetFailed() || p[0].GetLastError() == "" {
		t.Errorf("inventory %v", r.inventory)
	}
	if _, err := r.client.Place(t.Context(), &nodev1.PlaceRequest{DeployerEpoch: 1, Service: "acme/x"}); !fault.Is(fault.From(err), fault.ReasonEpochFenced) {
		t.Errorf("an older deployer: %v", err)
	}
}

func TestRestartTypes(t *testing.T) {
	r := start(t)
	m := binary("acme/once", solov1.Protocol_PROTOCOL_HTTP)
	m.Restart = &solov1.RestartPolicy{Type: solov1.RestartType_RESTART_TYPE_TEMPORARY}
	r.place(r.request(m, code.svc))
	if _, err := r.call("acme/once", "exit", ""); !fault.Is(err, fault.ReasonInstanceCrashed) {
		t.Errorf("got %v", err)
	}
	r.saw("the end", func(ev *nodev1.RunnerEvent) bool {
		return ev.GetInstance().GetInstance().GetState() == solov1.InstanceState_INSTANCE_STATE_STOPPED
	})
}

// TestDrain ends the process after the running call.
func TestDrain(t *testing.T) {
	r := begin(t, true)
	r.place(r.request(wasm("acme/kitchen"), code.kitchen))
	done := make(chan error, 1)
	go func() {
		_, err := r.call("acme/kitchen", "sleep", "200ms")
		done <- err
	}()
	r.eventually("the call runs", func() bool {
		i := r.sample().GetPlacements()[0]
		return i.GetMailboxDepth() == 0 && r.busy()
	})
	if _, err := r.client.Drain(t.Context(), &nodev1.DrainRequest{DeployerEpoch: 1, GracePeriod: durationpb.New(5 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the running call: %v", err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the process: %v", err)
	}
}

// busy tells whether the server has delivered a call that is not answered.
func (r *rig) busy() bool {
	return r.root.Stats().OutMsgs > r.root.Stats().InMsgs
}

func TestMainMisuse(t *testing.T) {
	var out, errs bytes.Buffer
	for args, want := range map[string]int{"--help": 0, "--version": 0, "--nonsense": 2, "word": 2, "": 2, "compile": 2} {
		if code := runner.Main(t.Context(), strings.Fields(args), strings.NewReader(""), &out, &errs); code != want {
			t.Errorf("%q: exit %d", args, code)
		}
	}
	if !strings.Contains(out.String(), "solo-runner") {
		t.Errorf("version: %q", &out)
	}
}
