package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// guests holds the guests, the compiling child and a warm cache, shared because compiling takes a
// second each.
var guests struct{ kitchen, upper, compiler, cache string }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "engine-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	guests.kitchen, guests.upper = filepath.Join(dir, "kitchen.wasm"), filepath.Join(dir, "upper.wasm")
	guests.compiler, guests.cache = filepath.Join(dir, "compiler"), filepath.Join(dir, "cache")
	if err := errors.Join(enginetest.Kitchen(guests.kitchen), enginetest.Upper(guests.upper), enginetest.Compiler(guests.compiler)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func child(t testing.TB, cache *engine.Cache) engine.Child {
	t.Helper()
	return engine.Child{Exe: guests.compiler, Cache: cache}
}

type rig struct {
	t     testing.TB
	eng   *engine.Engine
	cache *engine.Cache
	child engine.Child
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return rigAt(t, guests.cache)
}

func rigAt(t testing.TB, dir string) *rig {
	t.Helper()
	cache, err := engine.OpenCache(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(context.Background(), cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := eng.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &rig{t, eng, cache, child(t, cache)}
}

// load loads a file of code.
func (r *rig) load(path string) (*engine.Module, bool, error) {
	v, err := r.child.Compile(context.Background(), path)
	if err != nil {
		return nil, false, err
	}
	if v.Error != nil {
		return nil, false, v.Error
	}
	return r.eng.Load(context.Background(), path, v.SHA256, r.child.Compile)
}

func (r *rig) bytes(code []byte) *engine.Module {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "m.wasm")
	if err := os.WriteFile(path, code, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return r.file(path)
}

func (r *rig) file(path string) *engine.Module {
	r.t.Helper()
	m, _, err := r.load(path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := m.Release(context.Background()); err != nil {
			r.t.Error(err)
		}
	})
	return m
}

// world answers guests and remembers what they said.
type world struct {
	mu    sync.Mutex
	lines []string
	ask   func(ctx context.Context, op string, payload []byte) ([]byte, error)
}

func (w *world) Ask(ctx context.Context, op string, payload []byte) ([]byte, error) {
	return w.ask(ctx, op, payload)
}

func (w *world) Log(level uint32, line string) { w.add(fmt.Sprintf("log%d %s", level, line)) }

func (w *world) Output(stream, line string) { w.add(stream + " " + line) }

func (w *world) add(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, s)
}

func start(t testing.TB, m *engine.Module, cfg engine.InstanceConfig) *engine.Instance {
	t.Helper()
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = 64 << 20
	}
	if cfg.Host == nil {
		cfg.Host = &world{}
	}
	in, err := m.Instantiate(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(0) })
	return in
}

func call(in *engine.Instance, op, payload string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := in.Call(ctx, instance.Request{Op: op, Payload: []byte(payload), Caller: "UCALLER"})
	return string(out), err
}

func TestGoGuest(t *testing.T) {
	w := &world{}
	w.ask = func(_ context.Context, op string, payload []byte) ([]byte, error) {
		f, err := abi.Decode(payload)
		if err != nil || op != abi.OpBusCall || string(f[0]) != "a/b" {
			return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "not for %s", op)
		}
		return abi.Strings(string(f[1]) + string(f[2])).Encode(), nil
	}
	in := start(t, newRig(t).file(guests.kitchen), engine.InstanceConfig{Host: w, Env: map[string]string{"NAME": "solo", "B": "2"}})
	for _, c := range [][3]string{
		{"echo", "hello", "hello"},
		{"echo", "", ""},
		{"count", "", "1"},
		{"count", "", "2"},
		{"caller", "", "UCALLER"},
		{"env", "NAME", "solo"},
		{"call", "a/b op-x payload", "op-xpayload"},
		{"print", "x", ""},
	} {
		if got, err := call(in, c[0], c[1]); err != nil || got != c[2] {
			t.Errorf("%s(%s) = %q, %v; want %q", c[0], c[1], got, err, c[2])
		}
	}
	for _, want := range []string{"stdout out x", "stderr err x", "log2 log x k=v g.n=1"} {
		if !slices.Contains(w.lines, want) {
			t.Errorf("no line %q in %q", want, w.lines)
		}
	}
	if _, err := call(in, "fail", "broken"); !fault.Is(err, fault.ReasonServiceError) || fault.From(err).Message != "broken" {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "nothing", ""); !fault.Is(err, fault.ReasonOperationUnknown) || !strings.Contains(err.Error(), "echo, ") {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "call", "x/y op "); !fault.Is(err, fault.ReasonServiceError) || !strings.Contains(err.Error(), "not for bus.call") {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "big", fmt.Sprint(abi.MaxPayload+1)); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("got %v", err)
	}
	if got, err := call(in, "big", fmt.Sprint(abi.MaxPayload)); err != nil || len(got) != abi.MaxPayload {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if u := in.Usage(); u.MemoryBytes == 0 || u.CPU == 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestSaveAndRestore(t *testing.T) {
	m := newRig(t).file(guests.kitchen)
	old, fresh := start(t, m, engine.InstanceConfig{}), start(t, m, engine.InstanceConfig{})
	if _, err := call(old, "count", ""); err != nil {
		t.Fatal(err)
	}
	saved, err := old.Call(t.Context(), instance.Request{Kind: abi.KindSave})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Call(t.Context(), instance.Request{Kind: abi.KindRestore, Op: "0", Payload: saved}); err == nil {
		t.Error("a refused version passed")
	}
	if _, err := fresh.Call(t.Context(), instance.Request{Kind: abi.KindRestore, Op: "1", Payload: saved}); err != nil {
		t.Fatal(err)
	}
	if got, err := call(fresh, "count", ""); err != nil || got != "2" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRandomAndClockAreReal(t *testing.T) {
	m := newRig(t).file(guests.kitchen)
	a, b := start(t, m, engine.InstanceConfig{}), start(t, m, engine.InstanceConfig{})
	ra, err := call(a, "random", "")
	if err != nil {
		t.Fatal(err)
	}
	if rb, err := call(b, "random", ""); err != nil || ra == rb {
		t.Errorf("two instances drew the same %q, %v", rb, err)
	}
	before := time.Now().UnixNano()
	var got int64
	s, err := call(a, "now", "")
	if _, serr := fmt.Sscan(s, &got); err != nil || serr != nil || got < before {
		t.Errorf("the guest's clock says %s, before %d: %v", s, before, err)
	}
}

func TestWhatEndsAnInstance(t *testing.T) {
	r := newRig(t)
	kitchen := r.file(guests.kitchen)
	for name, c := range map[string]struct {
		module   *engine.Module
		op       string
		payload  string
		timeout  time.Duration
		reason   string
		kind     string
		inTrace  string
		inReason string
	}{
		"panic":        {kitchen, "panic", "ouch", 0, fault.ReasonInstanceCrashed, "trap", "main.init", "panic: ouch"},
		"exit":         {kitchen, "exit", "", 0, fault.ReasonInstanceCrashed, "exit", "", "status 7"},
		"spin":         {kitchen, "spin", "", 50 * time.Millisecond, fault.ReasonDeadlineExceeded, "deadline", "", "in time"},
		"sleep":        {kitchen, "sleep", "1h", 50 * time.Millisecond, fault.ReasonDeadlineExceeded, "deadline", "", "in time"},
		"hog":          {kitchen, "hog", "", 0, fault.ReasonMemoryLimit, "memory", "out of memory", "memory"},
		"bare spin":    {r.bytes(enginetest.Spin()), "x", "", 50 * time.Millisecond, fault.ReasonDeadlineExceeded, "deadline", "", ""},
		"bare trap":    {r.bytes(enginetest.Trap()), "x", "", 0, fault.ReasonInstanceCrashed, "trap", "unreachable", "unreachable"},
		"stack":        {r.bytes(enginetest.Recurse()), "x", "", 0, fault.ReasonInstanceCrashed, "trap", "stack overflow", ""},
		"grow memory":  {r.bytes(enginetest.GrowMemory()), "x", "", 0, fault.ReasonMemoryLimit, "memory", "", ""},
		"out of range": {r.bytes(enginetest.OutOfRange()), "x", "", 0, fault.ReasonInstanceCrashed, "trap", "outside", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := start(t, c.module, engine.InstanceConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if c.timeout > 0 {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), c.timeout)
			}
			defer cancel()
			_, err := in.Call(ctx, instance.Request{Op: c.op, Payload: []byte(c.payload)})
			if !fault.Is(err, c.reason) || !strings.Contains(err.Error(), c.inReason) {
				t.Errorf("got %v", err)
			}
			crash, ok := errors.AsType[*instance.Crash](err)
			if !ok || crash != in.Crash() || crash.Kind != c.kind || !strings.Contains(crash.Trace, c.inTrace) || crash.Error() == "" {
				t.Errorf("crash %+v", crash)
			}
			<-in.Done()
			if _, err := call(in, c.op, ""); !fault.Is(err, fault.ReasonUnavailable) {
				t.Errorf("a dead instance answered: %v", err)
			}
		})
	}
}

func TestTableGrowthIsBounded(t *testing.T) {
	in := start(t, newRig(t).bytes(enginetest.GrowTable()), engine.InstanceConfig{})
	if _, err := call(in, "x", ""); err != nil {
		t.Errorf("table.grow was not refused in good order: %v", err)
	}
}

func TestCancelStopsACall(t *testing.T) {
	in := start(t, newRig(t).file(guests.kitchen), engine.InstanceConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := in.Call(ctx, instance.Request{Op: "spin"})
		done <- err
	}()
	cancel()
	if err := <-done; !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("got %v", err)
	}
	if in.Pid() != os.Getpid() {
		t.Errorf("pid %d", in.Pid())
	}
	in.Close(0)
	if _, err := call(in, "echo", ""); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a closed instance answered: %v", err)
	}
}

func TestStartFailures(t *testing.T) {
	m := newRig(t).file(guests.kitchen)
	cfg := engine.InstanceConfig{MemoryBytes: 64 << 20, Host: &world{}, Env: map[string]string{"FAIL_INIT": "1"}}
	if _, err := m.Instantiate(t.Context(), cfg); !fault.Is(err, fault.ReasonStartFailed) || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("got %v", err)
	}
	cfg.MemoryBytes = 1 << 16
	if _, err := m.Instantiate(t.Context(), cfg); !fault.Is(err, fault.ReasonMemoryLimit) || len(fault.From(err).Fields) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestCommand(t *testing.T) {
	w := &world{}
	in := start(t, newRig(t).file(guests.upper), engine.InstanceConfig{
		Host: w, Args: []string{"-v"}, Env: map[string]string{"NAME": "solo"},
	})
	if got, err := call(in, "upper", "hello"); err != nil || got != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := call(in, "args", ""); err != nil || got != "-v args solo" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := call(in, "nope", ""); !fault.Is(err, fault.ReasonServiceError) || !strings.Contains(err.Error(), "no operation nope") {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "quiet", ""); !fault.Is(err, fault.ReasonServiceError) || !strings.Contains(err.Error(), "status 4") {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "big", ""); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "hog", ""); !fault.Is(err, fault.ReasonMemoryLimit) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := in.Call(ctx, instance.Request{Op: "spin"}); !fault.Is(err, fault.ReasonDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := in.Call(t.Context(), instance.Request{Kind: abi.KindSave}); !fault.Is(err, fault.ReasonUnimplemented) {
		t.Errorf("got %v", err)
	}
	if got, err := call(in, "upper", "again"); err != nil || got != "AGAIN" {
		t.Errorf("after the faults: %q, %v", got, err)
	}
	if u := in.Usage(); u.MemoryBytes != 0 || u.CPU == 0 {
		t.Errorf("usage %+v", u)
	}
}

func BenchmarkEcho(b *testing.B) {
	in := start(b, newRig(b).bytes(enginetest.Echo()), engine.InstanceConfig{})
	benchCall(b, in, "x")
}

func BenchmarkGoEcho(b *testing.B) {
	in := start(b, newRig(b).file(guests.kitchen), engine.InstanceConfig{})
	benchCall(b, in, "echo")
}

func benchCall(b *testing.B, in *engine.Instance, op string) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	for b.Loop() {
		if _, err := in.Call(ctx, instance.Request{Op: op, Payload: []byte("hello")}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGoStart(b *testing.B) {
	m := newRig(b).file(guests.kitchen)
	for b.Loop() {
		in, err := m.Instantiate(b.Context(), engine.InstanceConfig{MemoryBytes: 64 << 20, Host: &world{}})
		if err != nil {
			b.Fatal(err)
		}
		in.Close(0)
	}
}
