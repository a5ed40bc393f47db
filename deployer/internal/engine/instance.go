package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// page is the unit of WASM memory in bytes.
const page = 64 << 10

// InstanceConfig says how an instance runs.
type InstanceConfig struct {
	// MemoryBytes is the ceiling of its linear memory, rounded down to 64 KiB.
	MemoryBytes uint64
	// Env is its environment.
	Env map[string]string
	// Args stand between the program's name and the operation in a WASI command's arguments.
	Args []string
	Host Host
}

// Instance is one running copy of a module. Its methods are safe for concurrent use.
type Instance struct {
	module *Module
	cfg    InstanceConfig
	host   Host
	cpu    atomic.Int64 // nanoseconds
	mem    atomic.Pointer[linear]
	done   chan struct{} // closed with crash set
	crash  atomic.Pointer[instance.Crash]

	mu     sync.Mutex // held while guest code runs; guards what follows
	mod    api.Module // nil for commands
	closed bool
	ctx    context.Context // of the running call, for sleeps
	stdout *logline.Writer
	stderr *logline.Writer
	tail   logline.Tail // stderr of the running call

	// Of the running call.
	op, payload, result, reply []byte
	caller                     string
	status                     uint32
	replied                    bool
	tooLarge                   int
}

// Instantiate starts an instance: a reactor runs its initialisation within the context, a command
// starts with each call.
func (m *Module) Instantiate(ctx context.Context, cfg InstanceConfig) (*Instance, error) {
	if need := m.Info.MemoryPages * page; need > cfg.MemoryBytes {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonMemoryLimit,
			"the module starts with %d bytes of memory, above its limit of %d", need, cfg.MemoryBytes).
			AddField("manifest.limits.memory_bytes", "must be at least %d", need)
	}
	in := &Instance{module: m, cfg: cfg, host: cfg.Host, done: make(chan struct{})}
	in.stdout = logline.NewWriter(func(l string) { in.host.Output("stdout", l) })
	in.stderr = logline.NewWriter(func(l string) { in.tail.Add(l); in.host.Output("stderr", l) })
	if m.Info.Kind == inspect.Command {
		return in, nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	err := in.guarded(ctx, func(ctx context.Context) (err error) {
		if in.mod, err = in.start(ctx, in.moduleConfig().WithStdout(in.stdout).WithStderr(in.stderr)); err != nil {
			return err
		}
		if f := in.mod.ExportedFunction(abi.InitExport); f != nil {
			_, err = f.Call(ctx)
		}
		return err
	})
	if err != nil {
		f := in.ended(ctx, err)
		in.release()
		f.Reason = startReason(f.Reason)
		return nil, f
	}
	return in, nil
}

func startReason(reason string) string {
	if reason == fault.ReasonInstanceCrashed {
		return fault.ReasonStartFailed
	}
	return reason
}

// moduleConfig sets what wazero leaves open: no name, real clocks and randomness, a sleep that ends
// with the call.
func (in *Instance) moduleConfig() wazero.ModuleConfig {
	c := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithSysWalltime().WithSysNanotime().WithNanosleep(in.sleep).WithRandSource(rand.Reader)
	names := make([]string, 0, len(in.cfg.Env))
	for k := range in.cfg.Env {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		c = c.WithEnv(k, in.cfg.Env[k])
	}
	return c
}

// start instantiates the module in a memory of its own, replacing the one before.
func (in *Instance) start(ctx context.Context, c wazero.ModuleConfig) (api.Module, error) {
	mem, err := reserve(max(in.cfg.MemoryBytes/page, 1) * page)
	if err != nil {
		return nil, err
	}
	in.mem.Store(mem)
	return in.module.engine.rt.InstantiateModule(experimental.WithMemoryAllocator(ctx, mem), in.module.cm, c)
}

func (in *Instance) sleep(ns int64) {
	t := time.NewTimer(time.Duration(ns))
	defer t.Stop()
	select {
	case <-t.C:
	case <-in.ctx.Done():
	}
}

// guarded runs guest code on this thread, accounts its CPU time and turns a panic into an error.
func (in *Instance) guarded(ctx context.Context, f func(context.Context) error) (err error) {
	ctx = context.WithValue(ctx, instanceKey{}, in)
	in.ctx = ctx
	in.tail.Reset()
	runtime.LockOSThread()
	before := threadCPU()
	defer func() {
		in.cpu.Add(threadCPU() - before)
		runtime.UnlockOSThread()
		if r := recover(); r != nil {
			err = fmt.Errorf("the engine panicked: %v", r)
		}
	}()
	return f(ctx)
}

func threadCPU() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// Call runs one message and returns the reply, or a fault: SERVICE_ERROR and OPERATION_UNKNOWN are
// the guest's own word, after any other the instance is dead and Crash says why.
func (in *Instance) Call(ctx context.Context, r instance.Request) ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.crash.Load() != nil {
		return nil, fault.Unavailable(0, "the instance has ended").Because(instance.ErrEnded)
	}
	if err := ctx.Err(); err != nil {
		return nil, notStarted(err)
	}
	if in.module.Info.Kind == inspect.Command {
		return in.run(ctx, r)
	}
	in.op, in.payload, in.caller = []byte(r.Op), r.Payload, r.Caller
	in.reply, in.replied, in.tooLarge = nil, false, 0
	stack := [3]uint64{uint64(r.Kind), uint64(len(r.Op)), uint64(len(r.Payload))}
	err := in.guarded(ctx, func(ctx context.Context) error {
		// A function kept between calls would keep the largest stack it ever needed.
		return in.mod.ExportedFunction(abi.HandleExport).CallWithStack(ctx, stack[:])
	})
	in.op, in.payload, in.result = nil, nil, nil
	if err != nil {
		return nil, in.ended(ctx, err)
	}
	return in.answer(r, uint32(stack[0]) == 0)
}

// answer turns what the guest put out into the reply.
func (in *Instance) answer(r instance.Request, ok bool) ([]byte, error) {
	reply := in.reply
	in.reply = nil
	switch {
	case in.tooLarge > 0:
		return nil, tooLarge(in.tooLarge)
	case ok && (!in.replied || in.status == abi.StatusOK):
		return reply, nil
	case in.replied && in.status == abi.StatusUnknownOp:
		return nil, UnknownOp(r.Op, reply)
	case len(reply) == 0:
		return nil, serviceError("the service reported an error without a text")
	}
	return nil, serviceError(logline.Clean(string(reply)))
}

// UnknownOp is the fault for an operation that a service does not have, from the list of those it has.
func UnknownOp(op string, known []byte) *fault.Error {
	list := "none"
	if f, err := abi.Decode(known); err == nil && len(f) > 0 {
		list = strings.Join(f.Strings(), ", ")
	}
	return fault.New(codes.NotFound, fault.ReasonOperationUnknown, "the service has no operation %q; it has: %s", op, logline.Clean(list)).
		With("operations", logline.Clean(list))
}

func serviceError(text string) *fault.Error {
	return fault.New(codes.Unknown, fault.ReasonServiceError, "%s", text)
}

func tooLarge(n int) *fault.Error {
	return fault.New(codes.OutOfRange, fault.ReasonTooLarge, "the reply has %d bytes; the bound is %d", n, abi.MaxPayload)
}

// Usage measures, also while a call runs.
func (in *Instance) Usage() instance.Usage {
	u := instance.Usage{CPU: time.Duration(in.cpu.Load())}
	if m := in.mem.Load(); m != nil {
		u.MemoryBytes = m.size.Load()
	}
	return u
}

// Crash returns how the instance ended, or nil while it lives.
func (in *Instance) Crash() *instance.Crash { return in.crash.Load() }

// Done is closed once the instance is dead.
func (in *Instance) Done() <-chan struct{} { return in.done }

// Pid is this process.
func (in *Instance) Pid() int { return os.Getpid() }

// Close waits for the running call, whose context should be cancelled first, and frees everything.
func (in *Instance) Close(time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	in.release()
	_ = in.stdout.Close() // line writers do not fail
	_ = in.stderr.Close()
}

// release frees module and memory; no guest code may be running.
func (in *Instance) release() {
	in.closed = true
	if in.mod != nil {
		_ = in.mod.Close(context.Background())
		in.mod = nil
	}
	if m := in.mem.Swap(nil); m != nil {
		m.release()
	}
}

var _ instance.Instance = (*Instance)(nil)
