package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
)

// Verdict is what compiling a module came to.
type Verdict struct {
	// SHA256 of the module, in hex.
	SHA256 string `json:"sha256"`
	// Kind is reactor or command.
	Kind inspect.Kind `json:"kind,omitempty"`
	// Exports and Imports are the functions' names.
	Exports []string `json:"exports,omitempty"`
	Imports []string `json:"imports,omitempty"`
	// MemoryBytes is what it starts with.
	MemoryBytes uint64 `json:"memory_bytes,omitempty"`
	// Cached says that it had been compiled before.
	Cached bool `json:"cached,omitempty"`
	// CompileMS is how long compiling took, in milliseconds.
	CompileMS int64 `json:"compile_ms,omitempty"`
	// Error says what is wrong with the module; everything else is then empty but the digest.
	Error *fault.Error `json:"-"`
	// Status is Error on the wire, a google.rpc.Status.
	Status json.RawMessage `json:"error,omitempty"`
}

// Child says how a compiling child process runs.
type Child struct {
	// Exe is an executable whose `compile` subcommand is CompileMain.
	Exe string
	// Env is its environment.
	Env []string
	// Cache is filled.
	Cache *Cache
	// Timeout is its wall clock; default one minute.
	Timeout time.Duration
	// MemoryBytes is its data segment limit; default 2 GiB.
	MemoryBytes uint64
}

// Compile compiles the module in a file in a child process. The error is about the child; what is
// wrong with the module stands in the verdict. The child dies with ctx.
func (c Child) Compile(ctx context.Context, path string) (*Verdict, error) {
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 2 << 30
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, c.Exe, "compile", "-cache", c.Cache.dir,
		"-memory", fmt.Sprint(c.MemoryBytes), "-seconds", fmt.Sprint(int(c.Timeout/time.Second)+1), path)
	cmd.Env = append([]string{}, c.Env...)
	stdout, stderr := &instance.Reply{Max: 1 << 20}, &logline.Tail{}
	starved := false // looked for in every line: the report of a crash is longer than the tail that is kept
	words := logline.NewWriter(func(l string) {
		starved = starved || starvation(l)
		stderr.Add(l)
	})
	cmd.Stdout, cmd.Stderr = stdout, words
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	_ = words.Close() // delivers an unfinished line; it cannot fail
	v := &Verdict{}
	if jerr := json.Unmarshal(stdout.Bytes(), v); jerr == nil && v.SHA256 != "" {
		if len(v.Status) > 0 {
			f, perr := fault.ParseJSON(v.Status)
			if perr != nil {
				return nil, fault.Internal(perr, "the compiler's answer could not be read")
			}
			v.Error = f
		}
		return v, nil
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil, killedByCPU(err):
		return nil, limitFault("compiling the module took longer than %s", c.Timeout)
	case starved:
		return nil, limitFault("compiling the module took more than %d MiB of memory", c.MemoryBytes>>20)
	case err != nil:
		return nil, fault.Internal(fmt.Errorf("compiler: %w: %s", err, stderr), "the compiler did not survive the module")
	}
	return nil, fault.Internal(errors.New(stderr.String()), "the compiler gave no answer")
}

// starvation tells whether a line of a crash report says that memory could not be had. Where the Go
// runtime is refused memory for itself it may also fault, outside of all Go code; a fault in Go code, a
// defect of the compiler, reads otherwise.
func starvation(line string) bool {
	return strings.Contains(line, "out of memory") || strings.Contains(line, "allocate") || strings.HasPrefix(line, "SIGSEGV: segmentation violation")
}

func killedByCPU(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && (ws.Signal() == syscall.SIGXCPU || ws.Signal() == syscall.SIGKILL)
}

func limitFault(format string, args ...any) *fault.Error {
	return fault.New(codes.InvalidArgument, fault.ReasonModuleLimit, format, args...).
		Next("split large functions, or compile with less inlining")
}

// CompileMain is the `compile` subcommand: it validates and compiles the module in the named file, or
// on stdin, into the cache and prints a Verdict as JSON. It exits 0 when there is a verdict, 1 when
// something else failed, 2 on misuse.
func CompileMain(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("compile", flag.ContinueOnError)
	fs.SetOutput(stderr)
	dir := fs.String("cache", "", "directory of compiled code")
	memory := fs.Uint64("memory", 0, "limit of this process's data in bytes; 0 is none")
	seconds := fs.Uint64("seconds", 0, "limit of this process's CPU time per core; 0 is none")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *dir == "" || fs.NArg() > 1 {
		fmt.Fprintln(stderr, "usage: solo-runner compile -cache DIR [-memory BYTES] [-seconds N] [FILE]")
		return 2
	}
	if err := confine(*memory, *seconds); err != nil {
		fmt.Fprintln(stderr, "compile:", err)
		return 1
	}
	v, err := compileFile(ctx, *dir, fs.Arg(0), stdin)
	if err != nil {
		fmt.Fprintln(stderr, "compile:", err)
		return 1
	}
	if err := json.NewEncoder(stdout).Encode(v); err != nil {
		return 1
	}
	return 0
}

// confine limits this process, which is about to handle bytes that may be made to hurt it.
func confine(memory, seconds uint64) error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0}
	if memory > 0 {
		limits[unix.RLIMIT_DATA] = memory
		debug.SetMemoryLimit(int64(memory / 4 * 3))
	}
	if seconds > 0 {
		limits[unix.RLIMIT_CPU] = seconds * 2
	}
	for r, v := range limits {
		if err := unix.Setrlimit(r, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("limit %d: %w", r, err)
		}
	}
	return nil
}

func compileFile(ctx context.Context, dir, path string, stdin io.Reader) (*Verdict, error) {
	cache, err := OpenCache(dir, 0)
	if err != nil {
		return nil, err
	}
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		stdin = f
	}
	code, err := io.ReadAll(io.LimitReader(stdin, int64(inspect.DefaultBounds().ModuleBytes)+1))
	if err != nil {
		return nil, err
	}
	v, err := cache.compile(ctx, code)
	if err != nil {
		f := fault.From(err)
		if f.Code == codes.Internal {
			return nil, err
		}
		status, err := f.MarshalJSON()
		if err != nil {
			return nil, err
		}
		return &Verdict{SHA256: digest(code), Status: status}, nil
	}
	return v, cache.Prune()
}

// compile checks a module and compiles it, unless the cache has it.
func (c *Cache) compile(ctx context.Context, code []byte) (v *Verdict, err error) {
	sha := digest(code)
	if v, ok := c.Lookup(sha); ok {
		v.Cached = true
		return v, nil
	}
	own, err := os.MkdirTemp(c.dir, "compile-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(own)
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fault.New(codes.InvalidArgument, fault.ReasonModuleInvalid, "the module makes the compiler fail: %.500v", r)
		}
	}()
	rt, done, err := compiler(ctx, own)
	if err != nil {
		return nil, err
	}
	defer done()
	imports, err := instantiateHost(ctx, rt)
	if err != nil {
		return nil, err
	}
	m, err := inspect.Check(code, imports, inspect.DefaultBounds())
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if _, err := rt.CompileModule(ctx, m.Binary); err != nil {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonModuleInvalid, "the module is not valid: %s", firstLine(err.Error()))
	}
	v = &Verdict{
		SHA256: sha, Kind: m.Kind, Exports: m.Exports, Imports: m.Imports,
		MemoryBytes: m.MemoryPages * page, CompileMS: time.Since(begun).Milliseconds(),
	}
	return v, c.add(own, v)
}

// compiler returns a runtime that leaves compiled code in a directory.
func compiler(ctx context.Context, dir string) (wazero.Runtime, func(), error) {
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, nil, err
	}
	rt := wazero.NewRuntimeWithConfig(ctx, runtimeConfig().WithCompilationCache(cache))
	return rt, func() {
		_ = rt.Close(ctx)
		_ = cache.Close(ctx)
	}, nil
}
