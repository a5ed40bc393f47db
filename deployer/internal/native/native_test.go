package native_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/native"
	"github.com/solo-os/solo/deployer/internal/native/nativetest"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// exe is the service, built once.
var exe string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "native-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	exe = filepath.Join(dir, "svc")
	if err := nativetest.Service(exe); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) add(stream, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, stream+" "+line)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.list, s)
}

func host(t testing.TB) *native.Host {
	t.Helper()
	h := native.NewHost()
	t.Cleanup(h.Close)
	return h
}

func config(t testing.TB, l *lines) native.Config {
	t.Helper()
	return native.Config{
		Path: exe, Service: "acme/svc", Instance: "i1", Dir: filepath.Join(t.TempDir(), "i1"),
		Args: []string{"-a", "b"}, Env: map[string]string{"NAME": "solo"}, MemoryBytes: 512 << 20, Output: l.add,
	}
}

func call(in instance.Instance, op, payload string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := in.Call(ctx, instance.Request{Op: op, Payload: []byte(payload), Caller: "UCALLER"})
	return string(out), err
}

func startHTTP(t testing.TB, h *native.Host, cfg native.Config) *native.HTTP {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	in, err := h.StartHTTP(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(0) })
	return in
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never happened")
		}
	}
}

func TestHTTP(t *testing.T) {
	l := &lines{}
	cfg := config(t, l)
	in := startHTTP(t, host(t), cfg)
	for _, c := range [][3]string{
		{"echo", "hello", "hello"},
		{"echo", "", ""},
		{"caller", "", "UCALLER"},
		{"args", "", "-a b"},
		{"dir", "", cfg.Dir},
		{"env", "", "NAME=solo SOLO_SERVICE=acme/svc SOLO_INSTANCE=i1 SOLO_LISTEN=" + filepath.Join(cfg.Dir, "s")},
		{"print", "x", ""},
		{"burn", "30ms", "30ms"},
	} {
		if got, err := call(in, c[0], c[1]); err != nil || got != c[2] {
			t.Errorf("%s(%s) = %q, %v; want %q", c[0], c[1], got, err, c[2])
		}
	}
	eventually(t, func() bool { return l.has("stdout out x") && l.has("stderr err x") })
	if _, err := call(in, "nope", ""); !fault.Is(err, fault.ReasonServiceError) || !strings.Contains(err.Error(), `no operation "nope"`) {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "big", ""); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := in.Call(t.Context(), instance.Request{Kind: abi.KindSave}); !fault.Is(err, fault.ReasonUnimplemented) {
		t.Errorf("got %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := in.Call(short, instance.Request{Op: "sleep", Payload: []byte("1h")}); !fault.Is(err, fault.ReasonDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// Time is counted in ticks, so a few calls may cost none yet.
	eventually(t, func() bool {
		if _, err := call(in, "echo", strings.Repeat("x", 1<<16)); err != nil {
			t.Fatal(err)
		}
		u := in.Usage()
		return u.MemoryBytes > 0 && u.CPU > 0
	})
	if in.Crash() != nil || in.Pid() == os.Getpid() {
		t.Errorf("crash %v, pid %d", in.Crash(), in.Pid())
	}
	in.Close(5 * time.Second)
	if _, err := os.Stat(cfg.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the working directory is still there: %v", err)
	}
	if _, err := call(in, "echo", ""); err == nil {
		t.Error("a closed instance answered")
	}
	if u := in.Usage(); u.MemoryBytes != 0 {
		t.Errorf("usage after the end: %+v", u)
	}
}

func TestHTTPEnds(t *testing.T) {
	h := host(t)
	t.Run("exit", func(t *testing.T) {
		in := startHTTP(t, h, config(t, &lines{}))
		_, err := call(in, "exit", "")
		c, ok := errors.AsType[*instance.Crash](err)
		if !fault.Is(err, fault.ReasonInstanceCrashed) || !ok || c.Kind != "exit" || !strings.Contains(c.Message, "status 7") || c.Trace != "last words" {
			t.Errorf("%v, crash %+v", err, c)
		}
	})
	t.Run("memory", func(t *testing.T) {
		cfg := config(t, &lines{})
		cfg.MemoryBytes = 64 << 20
		in := startHTTP(t, h, cfg)
		_, err := call(in, "hog", "")
		c, ok := errors.AsType[*instance.Crash](err)
		if !fault.Is(err, fault.ReasonMemoryLimit) || !ok || c.Kind != "memory" {
			t.Errorf("%v, crash %+v", err, c)
		}
	})
	t.Run("killed", func(t *testing.T) {
		in := startHTTP(t, h, config(t, &lines{}))
		if err := syscall.Kill(in.Pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-in.Done()
		if c := in.Crash(); c.Kind != "killed" {
			t.Errorf("crash %+v", c)
		}
	})
	t.Run("stubborn", func(t *testing.T) {
		cfg := config(t, &lines{})
		cfg.Env = map[string]string{"START": "stubborn"}
		in := startHTTP(t, h, cfg)
		in.Close(10 * time.Millisecond)
		if c := in.Crash(); c.Kind != "killed" {
			t.Errorf("crash %+v", c)
		}
	})
	t.Run("children", func(t *testing.T) {
		in := startHTTP(t, h, config(t, &lines{}))
		s, err := call(in, "child", "")
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		in.Close(0)
		eventually(t, func() bool { return gone(pid) })
	})
}

// gone tells whether a process has ended, reaped by its new parent or not.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestStartFailures(t *testing.T) {
	h := host(t)
	cfg := config(t, &lines{})
	cfg.Env = map[string]string{"START": "exit"}
	_, err := h.StartHTTP(t.Context(), cfg)
	if c, ok := errors.AsType[*instance.Crash](err); !fault.Is(err, fault.ReasonStartFailed) || !ok || c.Trace != "told to exit" {
		t.Errorf("got %v", err)
	}
	cfg.Env = map[string]string{"START": "hang"}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.StartHTTP(ctx, cfg); !fault.Is(err, fault.ReasonStartFailed) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("got %v", err)
	}
	cfg.Path = filepath.Join(t.TempDir(), "none")
	if _, err := h.StartHTTP(t.Context(), cfg); !fault.Is(err, fault.ReasonArtifactNotFound) {
		t.Errorf("got %v", err)
	}
	cfg.Path = "/etc/passwd"
	if _, err := h.NewCommand(cfg); !fault.Is(err, fault.ReasonBinaryInvalid) {
		t.Errorf("got %v", err)
	}
}

// TestLongPath puts the working directory where no socket path can lead.
func TestLongPath(t *testing.T) {
	cfg := config(t, &lines{})
	cfg.Dir = filepath.Join(t.TempDir(), strings.Repeat("d", 100), "i1")
	in := startHTTP(t, host(t), cfg)
	if got, err := call(in, "echo", "x"); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestExecutableBit starts a copy without it, as an artifact comes out of a store.
func TestExecutableBit(t *testing.T) {
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t, &lines{})
	cfg.Path = filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(cfg.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	startHTTP(t, host(t), cfg)
}

func TestCommand(t *testing.T) {
	l := &lines{}
	cfg := config(t, l)
	cfg.MemoryBytes = 64 << 20
	in, err := host(t).NewCommand(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{"echo", "hello", "hello"},
		{"args", "", "-a b args"},
		{"env", "", "NAME=solo SOLO_SERVICE=acme/svc SOLO_INSTANCE=i1"},
		{"burn", "30ms", "30ms"},
	} {
		if got, err := call(in, c[0], c[1]); err != nil || got != c[2] {
			t.Errorf("%s(%s) = %q, %v; want %q", c[0], c[1], got, err, c[2])
		}
	}
	for op, reason := range map[string]string{
		"nope": fault.ReasonServiceError, "exit": fault.ReasonServiceError, "big": fault.ReasonTooLarge, "hog": fault.ReasonMemoryLimit,
	} {
		if _, err := call(in, op, ""); !fault.Is(err, reason) {
			t.Errorf("%s: %v", op, err)
		}
	}
	eventually(t, func() bool { return l.has("stderr last words") })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = in.Call(short, instance.Request{Op: "sleep", Payload: []byte("1h")})
	if c, ok := errors.AsType[*instance.Crash](err); !fault.Is(err, fault.ReasonDeadlineExceeded) || !ok || c.Kind != "deadline" {
		t.Errorf("got %v", err)
	}
	if _, err := in.Call(short, instance.Request{Op: "echo"}); !fault.Is(err, fault.ReasonDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := in.Call(t.Context(), instance.Request{Kind: abi.KindSave}); !fault.Is(err, fault.ReasonUnimplemented) {
		t.Errorf("got %v", err)
	}
	if u := in.Usage(); u.CPU == 0 || u.MemoryBytes != 0 || in.Crash() != nil || in.Pid() != os.Getpid() {
		t.Errorf("usage %+v", u)
	}
	done := make(chan error, 1)
	go func() {
		_, err := call(in, "sleep", "1h")
		done <- err
	}()
	eventually(t, func() bool { return in.Pid() != os.Getpid() && in.Usage().MemoryBytes > 0 })
	in.Close(0)
	if err := <-done; !fault.Is(err, fault.ReasonInstanceCrashed) {
		t.Errorf("got %v", err)
	}
	if _, err := call(in, "echo", ""); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a closed command ran: %v", err)
	}
}

// TestReap finds what a host that died left: here a host is closed without its instances, whose
// children then have no parent.
func TestReap(t *testing.T) {
	h := native.NewHost()
	cfg := config(t, &lines{})
	in := startHTTP(t, h, cfg)
	s, err := call(in, "child", "")
	if err != nil {
		t.Fatal(err)
	}
	pidFile, err := os.ReadFile(cfg.Dir + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	eventually(t, func() bool { return gone(child) })
	if err := os.WriteFile(cfg.Dir+".pid", pidFile, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(cfg.Dir), "self.pid")
	if err := os.WriteFile(other, fmt.Appendf(nil, "%d 1\n", os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := native.Reap(filepath.Dir(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stale pid file is still there: %v", err)
	}
	g := host(t)
	live := startHTTP(t, g, cfg)
	if n, err := native.Reap(filepath.Dir(cfg.Dir)); n != 1 || err != nil {
		t.Errorf("reaped %d, %v", n, err)
	}
	<-live.Done()
}

func BenchmarkStart(b *testing.B) {
	h := host(b)
	cfg := config(b, &lines{})
	for b.Loop() {
		in, err := h.StartHTTP(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		in.Close(0)
	}
}
