// Package world is Solo in a box: the real binaries, started as real processes in a home of
// their own on free ports, with the means to look at every process, to end it, and to see
// that nothing is left.
package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Options of a World.
type Options struct {
	// Bin holds the binaries that `make build` makes.
	Bin string
	// Home is SOLO_HOME; it must exist and be short, for Unix sockets lie below it.
	Home string
	// Log receives what the kernel and its components write; nil discards it.
	Log io.Writer
	// Env is added to the environment of the kernel.
	Env []string
	// Fixed keeps the addresses of the first start for later ones.
	Fixed bool
}

// World is one Solo.
type World struct {
	o     Options
	bin   string // a copy below Home, so that its processes can be told from any others
	cmd   *exec.Cmd
	ended chan error
	// Addr is where Solo listens: grpc, nats, metrics.
	Addr map[string]string
}

// New prepares a world without starting it.
func New(o Options) (*World, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	w := &World{o: o, bin: filepath.Join(o.Home, "bin")}
	if err := os.MkdirAll(w.bin, 0o700); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(o.Bin, "solo*"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("no binaries in %s: run make build", o.Bin)
	}
	for _, n := range names {
		to := filepath.Join(w.bin, filepath.Base(n))
		if os.Link(n, to) == nil {
			continue
		}
		if err := copyFile(n, to); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o700)
}

// Home is SOLO_HOME.
func (w *World) Home() string { return w.o.Home }

// Bin is the path of a binary of this world.
func (w *World) Bin(name string) string { return filepath.Join(w.bin, name) }

// Start boots the kernel and returns when all of Solo is ready, with the time it took.
func (w *World) Start(ctx context.Context) (time.Duration, error) {
	if w.cmd != nil {
		return 0, errors.New("already started")
	}
	cmd := exec.Command(w.Bin("solo-kernel"))
	cmd.Env = w.environment()
	cmd.Env = append(cmd.Env, w.o.Env...)
	for _, a := range []string{"grpc", "nats", "http", "metrics"} {
		addr := "127.0.0.1:0"
		if w.o.Fixed && w.Addr[a] != "" {
			addr = w.Addr[a]
		}
		cmd.Env = append(cmd.Env, "SOLO_"+strings.ToUpper(a)+"_ADDR="+addr)
	}
	cmd.Stdout, cmd.Stderr = w.o.Log, w.o.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := time.Now()
	_ = os.Remove(w.addresses()) // a killed kernel leaves it behind
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	w.cmd, w.ended = cmd, make(chan error, 1)
	go func() { w.ended <- cmd.Wait() }()
	err := Until(ctx, "all of Solo is ready", func() (bool, error) {
		select {
		case err := <-w.ended:
			w.cmd = nil
			return false, fmt.Errorf("the kernel ended before it was ready: %v", err)
		default:
		}
		b, err := os.ReadFile(w.addresses())
		if err != nil {
			return false, nil
		}
		m := map[string]string{}
		if json.Unmarshal(b, &m) != nil || m["grpc"] == "" {
			return false, nil
		}
		w.Addr = m
		return true, nil
	})
	return time.Since(begin), err
}

func (w *World) addresses() string { return filepath.Join(w.o.Home, "run", "addresses.json") }

func (w *World) environment() (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SOLO_") {
			env = append(env, e)
		}
	}
	return append(env, "SOLO_HOME="+w.o.Home)
}

// Stop ends Solo gracefully and returns when its kernel has ended.
func (w *World) Stop(ctx context.Context) error {
	if w.cmd == nil {
		return nil
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return w.Wait(ctx)
}

// Wait returns when the kernel has ended by itself.
func (w *World) Wait(ctx context.Context) error {
	if w.cmd == nil {
		return nil
	}
	select {
	case err := <-w.ended:
		w.cmd = nil
		return err
	case <-ctx.Done():
		return fmt.Errorf("the kernel has not ended: %w", ctx.Err())
	}
}

// KillAll ends every process of this world at once with SIGKILL, and returns how many.
func (w *World) KillAll(ctx context.Context) (int, error) {
	ps, err := w.Processes()
	if err != nil {
		return 0, err
	}
	for _, p := range ps {
		_ = syscall.Kill(p.PID, syscall.SIGSTOP) // so that none sees another go
	}
	for _, p := range ps {
		_ = syscall.Kill(p.PID, syscall.SIGKILL) // one that has ended is what is wanted
	}
	if w.cmd != nil {
		<-w.ended
		w.cmd = nil
	}
	return len(ps), w.Gone(ctx)
}

// Gone returns when no process of this world is left.
func (w *World) Gone(ctx context.Context) error {
	var last []Process
	err := Until(ctx, "no process is left", func() (bool, error) {
		ps, err := w.Processes()
		last = ps
		return len(ps) == 0, err
	})
	if err != nil {
		return fmt.Errorf("%w; left: %v", err, last)
	}
	return nil
}

// Result is what a command did.
type Result struct {
	Out, Err string
	Code     int
	Took     time.Duration
}

// Solo runs the command line; handle is a file with a handle, empty for the operator's.
func (w *World) Solo(ctx context.Context, handle string, args ...string) Result {
	return w.SoloIn(ctx, handle, nil, args...)
}

// SoloIn is Solo with standard input.
func (w *World) SoloIn(ctx context.Context, handle string, in io.Reader, args ...string) Result {
	cmd := exec.CommandContext(ctx, w.Bin("solo"), args...)
	cmd.Env = w.environment()
	if handle != "" {
		cmd.Env = append(cmd.Env, "SOLO_HANDLE="+handle)
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	begin := time.Now()
	err := cmd.Run()
	r := Result{Out: out.String(), Err: errs.String(), Took: time.Since(begin), Code: cmd.ProcessState.ExitCode()}
	if err != nil && r.Code <= 0 {
		r.Code, r.Err = 1, r.Err+err.Error()
	}
	return r
}

// Until asks ok again until it is true, it fails, or ctx ends; the error says what was awaited.
func Until(ctx context.Context, what string, ok func() (bool, error)) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		yes, err := ok()
		if err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-t.C:
		}
	}
}
