package runner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/deployer/internal/keeper"
	"github.com/solo-os/solo/deployer/internal/native/nativetest"
	"github.com/solo-os/solo/deployer/internal/runner"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// TestMain lets the test binary be the runner, its compiling child, and the keeper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "runner":
			os.Exit(runner.Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
		case "compile":
			os.Exit(runner.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		case "keeper":
			os.Exit(keeper.Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
		}
	}
	os.Exit(run(m))
}

// code holds the services, the compiling child and a cache that stays warm from test to test.
var code struct{ kitchen, upper, echo, svc, compiler, cache string }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "runner-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	code.kitchen, code.upper, code.echo = filepath.Join(dir, "kitchen.wasm"), filepath.Join(dir, "upper.wasm"), filepath.Join(dir, "echo.wasm")
	code.svc, code.compiler, code.cache = filepath.Join(dir, "svc"), filepath.Join(dir, "compiler"), filepath.Join(dir, "cache")
	if err := errors.Join(enginetest.Kitchen(code.kitchen), enginetest.Upper(code.upper), nativetest.Service(code.svc), enginetest.Compiler(code.compiler),
		os.WriteFile(code.echo, enginetest.Echo(), 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// syncBuffer is a buffer for a process's standard error.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// rig is a bus, a keeper and a runner of namespace acme, each a process, and this test the deployer.
type rig struct {
	t      testing.TB
	apart  bool // the runner has a process of its own
	w      *bustest.World
	boot   *nodev1.RunnerBoot
	cmd    *exec.Cmd // nil while the runner is this process
	stop   func()
	keeper *exec.Cmd
	stderr *syncBuffer
	client nodev1.RunnerClient
	root   *nats.Conn

	mu        sync.Mutex
	events    []*nodev1.RunnerEvent
	inventory *nodev1.RunnerInventory
}

func start(t testing.TB) *rig { return begin(t, false) }

func begin(t testing.TB, apart bool) *rig {
	t.Helper()
	r := &rig{t: t, apart: apart, w: bustest.Start(t), stderr: &syncBuffer{}}
	r.w.Grant(t, "svc:none/none=status") // makes the root record
	r.root = r.w.Dial(t, r.w.Root)
	r.startKeeper()
	h := bustest.NewHandle(t)
	if err := r.w.Fence.Identify(t.Context(), h.ID, fence.Identity{Role: subject.Runner, Namespace: "acme"}); err != nil {
		t.Fatal(err)
	}
	r.boot = &nodev1.RunnerBoot{
		NatsAddr: r.w.Addr, Node: bustest.Node, Namespace: "acme", Seed: h.Seed, Socket: filepath.Join(r.w.Home, "r.sock"),
		KeeperSocket: filepath.Join(r.w.Home, "k.sock"), CacheDir: code.cache, WorkDir: filepath.Join(r.w.Home, "work"), KernelId: r.w.KernelID,
	}
	r.startRunner()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stderr:\n%s", r.stderr)
		}
	})
	return r
}

func (r *rig) spawn(arg string, boot *nodev1.RunnerBoot) *exec.Cmd {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	var in bytes.Buffer
	if _, err := protodelim.MarshalTo(&in, boot); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(exe, arg)
	cmd.Stdin, cmd.Stderr = &in, r.stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func (r *rig) startKeeper() {
	r.t.Helper()
	h := bustest.NewHandle(r.t)
	if err := r.w.Fence.Identify(r.t.Context(), h.ID, fence.Identity{Role: subject.Keeper}); err != nil {
		r.t.Fatal(err)
	}
	r.keeper = r.spawn("keeper", &nodev1.RunnerBoot{
		NatsAddr: r.w.Addr, Node: bustest.Node, Seed: h.Seed, Socket: filepath.Join(r.w.Home, "k.sock"), CacheDir: filepath.Join(r.w.Home, "journals"),
	})
}

// startRunner runs the runner, in this process unless it shall be killed.
func (r *rig) startRunner() {
	r.t.Helper()
	if r.apart {
		r.cmd = r.spawn("runner", r.boot)
	} else {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- runner.Run(ctx, r.boot, code.compiler, slog.New(slog.NewTextHandler(r.stderr, nil))) }()
		var once sync.Once
		r.stop = func() {
			once.Do(func() {
				cancel()
				if err := <-done; err != nil {
					r.t.Errorf("the runner: %v", err)
				}
			})
		}
		r.t.Cleanup(r.stop)
	}
	cc, err := grpc.NewClient("unix:"+r.boot.GetSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(helper.MaxMessage)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = cc.Close() })
	r.client = nodev1.NewRunnerClient(cc)
	r.attach(1)
}

// attach follows the runner's events until the test ends.
func (r *rig) attach(epoch uint64) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := r.client.Attach(ctx, &nodev1.AttachRequest{DeployerEpoch: epoch, NatsAddr: r.w.Addr})
	if err != nil {
		r.t.Fatal(err)
	}
	hello, err := stream.Recv()
	if err != nil {
		r.t.Fatalf("attach: %v\n%s", err, r.stderr)
	}
	r.inventory = hello.GetInventory()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			ev, err := stream.Recv()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.events = append(r.events, ev)
			r.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
}

// saw waits for an event.
func (r *rig) saw(what string, ok func(*nodev1.RunnerEvent) bool) *nodev1.RunnerEvent {
	r.t.Helper()
	var found *nodev1.RunnerEvent
	r.eventually(what, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, ev := range r.events {
			if ok(ev) {
				found = ev
				return true
			}
		}
		return false
	})
	return found
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("%s: it never happened", what)
		}
	}
}

// request makes a request to place a service.
func (r *rig) request(m *solov1.Manifest, file string, rules ...string) *nodev1.PlaceRequest {
	r.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	serving, calling := r.w.Endow(r.t, m.GetName(), 1, rules...)
	req := &nodev1.PlaceRequest{
		DeployerEpoch: 1, Service: m.GetName(), Revision: 1, Epoch: 1, Manifest: m, CodePath: file, CodeSha256: hex.EncodeToString(sum[:]),
		ServingSeed: serving.Seed,
	}
	if len(rules) > 0 {
		req.CallingSeed, req.CallingId = calling.Seed, calling.ID
	}
	return req
}

func wasm(name string) *solov1.Manifest {
	return &solov1.Manifest{Name: name, Format: solov1.Format_FORMAT_WASM}
}

func binary(name string, p solov1.Protocol) *solov1.Manifest {
	return &solov1.Manifest{
		Name: name, Format: solov1.Format_FORMAT_BINARY, Protocol: p, Limits: &solov1.Limits{MemoryBytes: 256 << 20},
	}
}

func (r *rig) place(req *nodev1.PlaceRequest) *nodev1.PlaceResponse {
	r.t.Helper()
	resp, err := r.tryPlace(req)
	if err != nil {
		r.t.Fatalf("place %s: %v\n%s", req.GetService(), err, r.stderr)
	}
	return resp
}

func (r *rig) tryPlace(req *nodev1.PlaceRequest) (*nodev1.PlaceResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r.client.Place(ctx, req)
}

func (r *rig) remove(service string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := r.client.Remove(ctx, &nodev1.RemoveRequest{DeployerEpoch: 1, Service: service, Revision: 1, GracePeriod: durationpb.New(5 * time.Second)}); err != nil {
		r.t.Fatal(err)
	}
}

// call calls as the first operator.
func (r *rig) call(service, op, payload string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return r.callAs(ctx, r.root, r.w.Root.ID, service, op, payload)
}

func (r *rig) callAs(ctx context.Context, nc *nats.Conn, id, service, op, payload string) (string, error) {
	s, err := subject.ParseService(service)
	if err != nil {
		return "", err
	}
	m := nats.NewMsg(subject.Call(s, op, id))
	m.Data = []byte(payload)
	ctx, cancel := rpc.WithTimeout(ctx, m)
	defer cancel()
	resp, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return "", rpc.TransportError(err, service)
	}
	return string(resp.Data), rpc.ReplyError(resp)
}

func (r *rig) want(service, op, payload, want string) {
	r.t.Helper()
	if got, err := r.call(service, op, payload); err != nil || got != want {
		r.t.Errorf("%s %s(%s) = %q, %v; want %q", service, op, payload, got, err, want)
	}
}

func (r *rig) sample() *nodev1.SampleResponse {
	r.t.Helper()
	s, err := r.client.Sample(r.t.Context(), &nodev1.SampleRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func lines(r *rig) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, ev := range r.events {
		if l := ev.GetLog(); l != nil {
			out = append(out, strings.Join([]string{l.GetStream(), l.GetLevel(), l.GetLine()}, " "))
		}
	}
	return strings.Join(out, "\n")
}

var _ io.Writer = (*syncBuffer)(nil)
