package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// buffer is what a process writes while others read it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func command() daemon.Command {
	return daemon.Command{Component: subject.Registry, Summary: "does what it must", Run: func(context.Context, *daemon.Process) error {
		return errors.New("it should not run")
	}}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "does what it must", ""},
		{[]string{"-h"}, 0, "-colour", ""},
		{[]string{"--version"}, 0, "solo-registry " + daemon.Version, ""},
		{[]string{"--nonsense"}, 2, "", "nonsense"},
		{[]string{"--colour"}, 2, "", "colour"},
		{[]string{"start"}, 2, "", `unexpected argument "start"`},
		{nil, 2, "", "no identity on standard input"},
	} {
		var stdout, stderr bytes.Buffer
		cmd, colour := command(), ""
		cmd.Flags = func(fs *flag.FlagSet, getenv func(string) string) {
			fs.StringVar(&colour, "colour", getenv("SOLO_TEST_COLOUR"), "a flag of its own")
		}
		t.Setenv("SOLO_TEST_COLOUR", "blue")
		code := daemon.Main(t.Context(), cmd, c.args, strings.NewReader(""), &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) ||
			(c.stdout == "") != (stdout.Len() == 0) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: %d\nstdout %s\nstderr %s", c.args, code, &stdout, &stderr)
		}
		if len(c.args) == 0 && colour != "blue" {
			t.Errorf("the environment is not the default: %q", colour)
		}
	}
}

// child is a component run by Main, with the test in the kernel's place.
type child struct {
	boot   *kernelv1.ComponentBoot
	stdin  *io.PipeWriter
	stderr buffer
	code   chan int
	p      chan *daemon.Process
}

// run starts Main and returns when the component says that it is ready.
func run(t *testing.T, w *bustest.World, work func(context.Context, *daemon.Process) error) *child {
	t.Helper()
	c := &child{boot: w.Boot(t, subject.Registry, nil), code: make(chan int, 1), p: make(chan *daemon.Process, 1)}
	in, out := io.Pipe()
	c.stdin = out
	t.Cleanup(func() { _ = out.Close() })
	cmd := command()
	cmd.Run = func(ctx context.Context, p *daemon.Process) error {
		c.p <- p
		return work(ctx, p)
	}
	go func() { c.code <- daemon.Main(context.WithoutCancel(t.Context()), cmd, nil, in, io.Discard, &c.stderr) }()
	if _, err := protodelim.MarshalTo(out, c.boot); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *child) end(t *testing.T) int {
	t.Helper()
	select {
	case code := <-c.code:
		return code
	case <-time.After(patience):
		t.Fatalf("the process does not end\n%s", c.stderr.String())
		return -1
	}
}

// serve is ready and works until it is told to end.
func serve(ctx context.Context, p *daemon.Process) error {
	if err := p.Ready(ctx, map[string]string{"metrics": "there"}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestEndsWithTheKernel(t *testing.T) {
	w := bustest.Start(t)
	c := run(t, w, serve)
	if a := w.WaitReady(t, subject.Registry); a["metrics"] != "there" {
		t.Errorf("addresses %v", a)
	}
	if err := c.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if code := c.end(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.stderr.String())
	}
	if (<-c.p).Draining() {
		t.Error("the end of the kernel is taken for a planned one")
	}
}

func TestEndsBySignal(t *testing.T) {
	w := bustest.Start(t)
	c := run(t, w, serve)
	w.WaitReady(t, subject.Registry)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := c.end(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.stderr.String())
	}
}

func TestFails(t *testing.T) {
	w := bustest.Start(t)
	c := run(t, w, func(context.Context, *daemon.Process) error { return errors.New("out of luck") })
	if code := c.end(t); code != 1 || !strings.Contains(c.stderr.String(), "out of luck") {
		t.Errorf("exit code %d\n%s", code, c.stderr.String())
	}
	var line struct{ Level, Component, Node, Error string }
	if err := json.Unmarshal([]byte(strings.SplitN(c.stderr.String(), "\n", 2)[0]), &line); err != nil || line.Component != subject.Registry || line.Node != bustest.Node {
		t.Errorf("%s: %v", c.stderr.String(), err)
	}
	stranger := w.Boot(t, subject.Registry, nil)
	stranger.Seed = bustest.NewHandle(t).Seed
	var in bytes.Buffer
	if _, err := protodelim.MarshalTo(&in, stranger); err != nil {
		t.Fatal(err)
	}
	var stderr buffer // what reads the identity's pipe may still write
	if code := daemon.Main(t.Context(), command(), nil, &in, io.Discard, &stderr); code != 1 || strings.Contains(stderr.String(), stranger.Seed) {
		t.Errorf("a stranger: %d %s", code, stderr.String())
	}
}

// control asks the component something as the kernel or resmon does.
func control(t *testing.T, nc *nats.Conn, op, id string, resp proto.Message) {
	t.Helper()
	m, err := nc.RequestWithContext(within(t), subject.Control(op, id), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(m.Data, resp); err != nil {
		t.Fatal(err)
	}
}

func TestControl(t *testing.T) {
	w := bustest.Start(t)
	c := run(t, w, serve)
	w.WaitReady(t, subject.Registry)
	p := <-c.p
	kernel := w.Boot(t, subject.Kernel, nil)
	nc := w.Dial(t, bustest.Handle{Seed: kernel.GetSeed()})

	var h kernelv1.HealthResponse
	control(t, nc, subject.ControlHealth, p.Peer.ID, &h)
	if !h.GetOk() || h.GetGoroutines() == 0 || h.GetRssBytes() == 0 {
		t.Errorf("%v", &h)
	}
	p.SetHealth(func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("a health check without end")
		}
		return errors.New("not well")
	})
	control(t, nc, subject.ControlHealth, p.Peer.ID, &h)
	if h.GetOk() || h.GetMessage() != "not well" {
		t.Errorf("%v", &h)
	}
	p.SetHealth(nil)
	control(t, nc, subject.ControlHealth, p.Peer.ID, &h)
	if !h.GetOk() {
		t.Errorf("%v", &h)
	}

	var m kernelv1.MetricsResponse
	control(t, w.Process(t, subject.Resmon).Conn, subject.ControlMetrics, p.Peer.ID, &m)
	if !bytes.Contains(m.GetText(), []byte("\ngo_goroutines ")) {
		t.Errorf("%s", m.GetText())
	}

	// The server itself keeps others out.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := w.Process(t, subject.Deployer).Conn.RequestWithContext(ctx, subject.Control(subject.ControlDrain, p.Peer.ID), nil); err == nil {
		t.Error("a component drained another")
	}

	control(t, nc, subject.ControlDrain, p.Peer.ID, &h)
	if code := c.end(t); code != 0 || !p.Draining() {
		t.Errorf("exit code %d, draining %v", code, p.Draining())
	}
}

func TestSocket(t *testing.T) {
	w := bustest.Start(t)
	stale := filepath.Join(w.Home, "run", subject.Registry+".sock")
	if err := os.MkdirAll(filepath.Dir(stale), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, nil, 0o600); err != nil { // left by a process that was killed
		t.Fatal(err)
	}
	goOn := make(chan struct{})
	c := run(t, w, func(ctx context.Context, p *daemon.Process) error {
		<-goOn
		return serve(ctx, p)
	})
	p := <-c.p
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", stale)
	}}}
	get := func(path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://registry"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, _ := get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("ready before it says so: %d", code)
	}
	close(goOn)
	w.WaitReady(t, subject.Registry)
	for ctx := within(t); ; {
		code, _ := get("/readyz") // the kernel knows a moment earlier than the process itself
		if code == http.StatusOK {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("never ready")
		}
	}
	if code, body := get("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("%d %s", code, body)
	}
	p.SetHealth(func(context.Context) error { return errors.New("not well") })
	if code, body := get("/healthz"); code != http.StatusServiceUnavailable || body != "not well\n" {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "process_open_fds") {
		t.Errorf("%d %s", code, body)
	}
	if err := c.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	c.end(t)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestFence(t *testing.T) {
	w := bustest.Start(t)
	deployer := w.Process(t, subject.Deployer)
	runner := bustest.NewHandle(t)
	if err := deployer.Fence(within(t), subject.FenceAdmit, &kernelv1.FenceAdmitRequest{Id: runner.ID, Role: subject.Runner, Namespace: "acme"}, &kernelv1.FenceAdmitResponse{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.TryDial(t, runner); err != nil {
		t.Errorf("an admitted runner: %v", err)
	}
	err := deployer.Fence(within(t), subject.FenceAdmit, &kernelv1.FenceAdmitRequest{Id: "x", Role: subject.Runner}, &kernelv1.FenceAdmitResponse{})
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		t.Errorf("a bad request: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := w.Process(t, subject.Gateway).Fence(ctx, subject.FenceApply, &kernelv1.FenceApplyRequest{}, &kernelv1.FenceApplyResponse{}); err == nil {
		t.Error("the gateway changed the table")
	}
}

func TestServer(t *testing.T) {
	w := bustest.Start(t)
	registry, deployer := w.Process(t, subject.Registry), w.Process(t, subject.Deployer)
	s, err := registry.Server()
	if err != nil {
		t.Fatal(err)
	}
	rpc.Handle(s, "get", func(_ context.Context, c rpc.Caller, _ *kernelv1.GetRegistrationRequest) (*kernelv1.GetRegistrationResponse, error) {
		return &kernelv1.GetRegistrationResponse{Registration: &kernelv1.Registration{Name: c.Component}}, nil
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	var resp kernelv1.GetRegistrationResponse
	if err := deployer.Peer.Call(within(t), subject.Registry, "get", subject.Nothing(), &kernelv1.GetRegistrationRequest{}, &resp); err != nil || resp.GetRegistration().GetName() != subject.Deployer {
		t.Errorf("%v %v", &resp, err)
	}
}

func TestLoggerLevels(t *testing.T) {
	for level, lines := range map[string]int{"": 3, "nonsense": 3, "debug": 4, "info": 3, "warn": 2, "error": 1} {
		var b bytes.Buffer
		l := daemon.NewLogger(&b, level)
		l.Debug("d")
		l.Info("i")
		l.Warn("w")
		l.Error("e")
		if got := strings.Count(b.String(), "\n"); got != lines {
			t.Errorf("%q: %d lines, want %d", level, got, lines)
		}
	}
}

// The log has the cause of a fault, which its client never sees.
func TestLoggerTellsCauses(t *testing.T) {
	var b bytes.Buffer
	daemon.NewLogger(&b, "").Warn("w", "error", fault.Unavailable(time.Second, "not now").Because(errors.New("the disk is full")), "plain", io.EOF, "nothing", fault.From(nil))
	daemon.NewLogger(&b, "").Warn("w", "error", nil)
	first, second, _ := strings.Cut(b.String(), "\n")
	if strings.Contains(second, "error") {
		t.Errorf("no error is told as one: %s", second)
	}
	var line struct{ Error, Plain string }
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	if line.Error != "UNAVAILABLE: not now (the disk is full)" || line.Plain != "EOF" {
		t.Errorf("%+v", line)
	}
}
