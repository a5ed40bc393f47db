package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/deployer/internal/keeper"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	"github.com/solo-os/solo/proto/subject"
)

type service = subject.Service

// TestMain lets the test binary be the keeper process, under a file size limit where one is named.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		if len(os.Args) > 2 {
			n, err := strconv.ParseUint(os.Args[2], 10, 64)
			if err != nil || unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: n}) != nil {
				os.Exit(9)
			}
		}
		os.Exit(keeper.Main(context.Background(), nil, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// process is a keeper in a process of its own.
type process struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	client nodev1.KeeperClient
	conn   *grpc.ClientConn
}

func spawn(t testing.TB, boot *nodev1.RunnerBoot, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	if _, err := protodelim.MarshalTo(&in, boot); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe, append([]string{"keeper"}, args...)...), stderr: &bytes.Buffer{}}
	p.cmd.Stdin, p.cmd.Stderr = &in, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.conn, err = grpc.NewClient("unix:"+boot.GetSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(helper.MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	p.client = nodev1.NewKeeperClient(p.conn)
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.conn.Close()
}

func (p *process) open(t testing.TB, epoch uint64) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := p.client.Open(ctx, &nodev1.OpenRequest{Service: svc, Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for {
		page, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err, p.stderr)
		}
		for _, e := range page.GetEntries() {
			out[e.GetKey()] = string(e.GetValue())
		}
	}
}

func bootAt(t testing.TB, dir string) *nodev1.RunnerBoot {
	t.Helper()
	return &nodev1.RunnerBoot{Node: "n1", Socket: filepath.Join(t.TempDir(), "k.sock"), CacheDir: dir}
}

// TestKillAtAnyPoint kills the keeper in the middle of writes, again and again: every answered write
// is there afterwards, and at most the one under way more.
func TestKillAtAnyPoint(t *testing.T) {
	dir := t.TempDir()
	acked := -1
	for round := range 8 {
		p := spawn(t, bootAt(t, dir))
		got := p.open(t, uint64(round+1))
		if n := len(got); n < acked+1 || n > acked+2 {
			t.Fatalf("round %d: %d keys, %d were answered", round, n, acked+1)
		}
		for i := range acked + 1 {
			if got[fmt.Sprint(i)] != fmt.Sprint("v", i) {
				t.Fatalf("round %d: key %d has %q", round, i, got[fmt.Sprint(i)])
			}
		}
		w, err := p.client.Write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stop := acked + 1 + rand.IntN(200)
		for {
			i := acked + 1
			err := w.Send(&nodev1.WriteRequest{Id: uint64(i), Service: svc, Epoch: uint64(round + 1), Ops: []*nodev1.StateOp{put(fmt.Sprint(i), fmt.Sprint("v", i))}})
			if i == stop {
				_ = p.cmd.Process.Kill()
			}
			if err != nil {
				break
			}
			r, err := w.Recv()
			if err != nil {
				break
			}
			if r.GetCode() != 0 || r.GetId() != uint64(i) {
				t.Fatalf("write %d: %v", i, r)
			}
			acked = i
		}
		p.kill()
	}
	if acked < 8 {
		t.Errorf("only %d writes were answered in all", acked+1)
	}
}

// TestFullDisk runs the keeper against a file size limit: the writer gets a clear error, the reader
// everything kept before, and smaller writes go on.
func TestFullDisk(t *testing.T) {
	p := spawn(t, bootAt(t, t.TempDir()), fmt.Sprint(64<<10))
	p.open(t, 1)
	w, err := p.client.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(op *nodev1.StateOp) *nodev1.WriteResponse {
		t.Helper()
		if err := w.Send(&nodev1.WriteRequest{Service: svc, Epoch: 1, Ops: []*nodev1.StateOp{op}}); err != nil {
			t.Fatal(err)
		}
		r, err := w.Recv()
		if err != nil {
			t.Fatal(err, p.stderr)
		}
		return r
	}
	if r := send(put("small", "1")); r.GetCode() != 0 {
		t.Fatal(r)
	}
	if r := send(put("big", strings.Repeat("x", 100<<10))); r.GetReason() != fault.ReasonStateUnavailable || !strings.Contains(r.GetMessage(), "cannot be written") {
		t.Errorf("got %v", r)
	}
	if r := send(put("after", "2")); r.GetCode() != 0 {
		t.Errorf("a write that fits: %v", r)
	}
	if got := p.open(t, 1); got["small"] != "1" || got["after"] != "2" || len(got) != 2 {
		t.Errorf("got %v", sortedKeys(got))
	}
}

// bus is a server with JetStream that knows one key.
func bus(t testing.TB) (addr, seed string, nc *nats.Conn) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	s, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	id, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		Nkeys: []*server.NkeyUser{{Nkey: id}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	addr = srv.Addr().String()
	nc, _, err = conn.Dial(t.Context(), conn.Options{Addr: addr, Seed: string(s)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	return addr, string(s), nc
}

func TestBucket(t *testing.T) {
	_, _, nc := bus(t)
	b := keeper.KV{Conn: func() *nats.Conn { return nc }}
	ctx, s := t.Context(), service{Namespace: "acme", Name: "counter"}
	if all, err := b.Load(ctx, s); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, err := range []error{
		b.Put(ctx, s, "key with > and * and .", []byte("1")),
		b.Put(ctx, s, "\x00\xff", nil),
		b.Put(ctx, s, "gone", []byte("x")),
		b.Delete(ctx, s, "gone"),
		b.Delete(ctx, s, "never"),
		b.Put(ctx, service{Namespace: "acme", Name: "counter-2"}, "other", []byte("x")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.Load(ctx, s)
	if err != nil || len(all) != 2 || string(all["key with > and * and ."]) != "1" {
		t.Errorf("%q, %v", all, err)
	}
	if v, ok := all["\x00\xff"]; !ok || len(v) != 0 {
		t.Errorf("empty value: %v %q", ok, v)
	}
	off := keeper.KV{Conn: func() *nats.Conn { return nil }}
	_, lerr := off.Load(ctx, s)
	for _, err := range []error{lerr, off.Put(ctx, s, "k", nil), off.Delete(ctx, s, "k")} {
		if err == nil {
			t.Error("no error without a bus")
		}
	}
}

// TestProcess drives the whole keeper over its socket and the bus, loses the node's journal and finds
// the state again.
func TestProcess(t *testing.T) {
	addr, seed, _ := bus(t)
	dir := t.TempDir()
	boot := bootAt(t, dir)
	boot.NatsAddr, boot.Seed = addr, seed
	p := spawn(t, boot)
	attach, err := p.client.KeeperAttach(t.Context(), &nodev1.KeeperAttachRequest{DeployerEpoch: 2, NatsAddr: addr})
	if err != nil {
		t.Fatal(err)
	}
	hello, err := attach.Recv()
	if err != nil || int(hello.GetPid()) != p.cmd.Process.Pid || !strings.HasPrefix(hello.GetId(), "U") {
		t.Fatalf("hello %v, %v", hello, err)
	}
	old, err := p.client.KeeperAttach(t.Context(), &nodev1.KeeperAttachRequest{DeployerEpoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Recv(); !fault.Is(fault.From(err), fault.ReasonEpochFenced) {
		t.Errorf("an older deployer was let in: %v", err)
	}
	p.open(t, 1)
	w, err := p.client.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(&nodev1.WriteRequest{Id: 7, Service: svc, Epoch: 1, Ops: []*nodev1.StateOp{put("a", "1")}}); err != nil {
		t.Fatal(err)
	}
	if r, err := w.Recv(); err != nil || r.GetId() != 7 || r.GetCode() != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err := p.client.Flush(t.Context(), &nodev1.FlushRequest{Service: svc}); err != nil || r.GetKeys() != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.stderr)
	}

	boot = bootAt(t, t.TempDir())
	boot.NatsAddr, boot.Seed = addr, seed
	q := spawn(t, boot)
	if got := q.open(t, 2); got["a"] != "1" || len(got) != 1 {
		t.Errorf("the lost node's state: %v", got)
	}
	if _, err := q.client.Drop(t.Context(), &nodev1.DropRequest{Service: svc, Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	if got := q.open(t, 3); len(got) != 0 {
		t.Errorf("dropped state is back: %v", got)
	}
}

func TestMainMisuse(t *testing.T) {
	var out, errs bytes.Buffer
	for args, want := range map[string]int{"--help": 0, "--version": 0, "--nonsense": 2, "word": 2, "": 2} {
		var list []string
		if args != "" {
			list = []string{args}
		}
		if code := keeper.Main(t.Context(), list, strings.NewReader(""), &out, &errs); code != want {
			t.Errorf("%q: exit %d", args, code)
		}
	}
	if !strings.Contains(out.String(), "solo-keeper") {
		t.Errorf("version: %q", &out)
	}
}

func BenchmarkWrite(b *testing.B) {
	p := spawn(b, bootAt(b, b.TempDir()))
	p.open(b, 1)
	w, err := p.client.Write(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	op := []*nodev1.StateOp{put("n", "12345678")}
	for b.Loop() {
		if err := w.Send(&nodev1.WriteRequest{Service: svc, Epoch: 1, Ops: op}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}
