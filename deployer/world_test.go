package deployer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer"
	"github.com/solo-os/solo/deployer/internal/deployertest"
	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// binaries is the folder of the helpers, built once for all tests.
func binaries() string {
	return filepath.Join(os.TempDir(), "solo-deployer-test-"+strconv.Itoa(os.Getpid()))
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir := binaries()
	defer os.RemoveAll(dir)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = deployertest.Build(dir + "/")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// world is a deployer with everything around it.
type world struct {
	*bustest.World
	registry  *deployertest.Registry
	authority *deployertest.Authority
	deployer  *bustest.Running
	root      rpc.Peer
	runs      int
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{World: bustest.Start(t)}
	w.authority = deployertest.StartAuthority(t, w.World)
	w.registry = deployertest.StartRegistry(t, w.World)
	w.root = w.holder(t, bustest.Everything()...)
	// Runs after the deployer has ended, and finds what it left.
	t.Cleanup(func() { w.endHelpers(t) })
	w.run(t)
	return w
}

// run starts the deployer, again if there was one.
func (w *world) run(t *testing.T) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	c := deployer.Config{BinDir: binaries(), Exe: filepath.Join(binaries(), "solo-deployer"), BuildCache: filepath.Join(cache, "solo-test-go-build")}
	w.runs++
	w.deployer = w.Run(t, daemon.Command{Component: subject.Deployer, Run: func(ctx context.Context, p *daemon.Process) error {
		return deployer.Run(ctx, p, c)
	}}, nil)
}

// drain ends the deployer as the kernel's planned shutdown does.
func (w *world) drain(t *testing.T) {
	t.Helper()
	h := bustest.NewHandle(t)
	if err := w.Fence.Identify(t.Context(), h.ID, fence.Identity{Role: subject.Kernel}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Dial(t, h).RequestWithContext(t.Context(), subject.Control(subject.ControlDrain, w.deployer.ID), nil); err != nil {
		t.Fatal(err)
	}
	w.deployer.Stop(t)
}

// holder is a fresh holder with a connection.
func (w *world) holder(t *testing.T, rules ...string) rpc.Peer {
	t.Helper()
	h := w.Grant(t, rules...)
	return rpc.Peer{Conn: w.Dial(t, h), ID: h.ID}
}

// helpers are the processes that run out of this world's home, by the name of their executable.
func (w *world) helpers(t testing.TB, name string) (pids []int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		exe, _ := os.Readlink(d + "/exe")
		cwd, _ := os.Readlink(d + "/cwd")
		if strings.HasPrefix(cwd, w.Home) && filepath.Base(exe) == name {
			pid, err := strconv.Atoi(filepath.Base(d))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) endHelpers(t testing.TB) {
	for _, name := range []string{"solo-runner", "solo-keeper"} {
		for _, pid := range w.helpers(t, name) {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it has just ended
			}
			_ = unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0) // ended as well
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); err != nil {
				t.Errorf("%s %d: %v", name, pid, err)
			}
			_ = unix.Close(fd)
		}
	}
}

// kitchen is a guest with an operation for everything, built once.
func kitchen(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(binaries(), "kitchen.wasm")
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		if err := enginetest.Kitchen(file); err != nil {
			t.Fatal(err)
		}
		b, err = os.ReadFile(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func native(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(binaries(), "echo"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func archive(b []byte) *solov1.Code { return &solov1.Code{Kind: &solov1.Code_Archive{Archive: b}} }
func bySHA(sha string) *solov1.Code { return &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: sha}} }
func files(m map[string]string) *solov1.Code {
	f := &solov1.Files{Files: map[string][]byte{}}
	for k, v := range m {
		f.Files[k] = []byte(v)
	}
	return &solov1.Code{Kind: &solov1.Code_Files{Files: f}}
}

func manifest(name string, format solov1.Format) *solov1.Manifest {
	return &solov1.Manifest{Name: name, Format: format}
}

func ask[Resp any, R interface {
	*Resp
	proto.Message
}](t *testing.T, p rpc.Peer, op, service string, req proto.Message) (R, error) {
	t.Helper()
	s := subject.Nothing()
	if service != "" {
		var err error
		if s, err = subject.ParseService(service); err != nil {
			t.Fatal(err)
		}
	}
	resp := R(new(Resp))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	return resp, p.Call(ctx, subject.Deployer, op, s, req, resp)
}

// inline is what goes into one request with room to spare.
const inline = 1 << 20

// upload brings what is too large for one request, as the gateway does.
func upload(t *testing.T, p rpc.Peer, b []byte) *solov1.Code {
	t.Helper()
	const chunk = 512 << 10
	for at := 0; at < len(b); at += chunk {
		end := min(at+chunk, len(b))
		r, err := ask[kernelv1.PutChunkResponse](t, p, "upload", "", &kernelv1.PutChunkRequest{
			Sha256: sum(b), Upload: t.Name(), Offset: uint64(at), Data: b[at:end], Last: end == len(b),
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.GetStored() {
			break
		}
	}
	return bySHA(sum(b))
}

func deploy(t *testing.T, p rpc.Peer, m *solov1.Manifest, c *solov1.Code) (*solov1.DeployResponse, error) {
	t.Helper()
	if len(c.GetArchive()) > inline {
		c = upload(t, p, c.GetArchive())
	}
	return ask[solov1.DeployResponse](t, p, "deploy", m.GetName(), &solov1.DeployRequest{Manifest: m, Code: c})
}

func mustDeploy(t *testing.T, p rpc.Peer, m *solov1.Manifest, c *solov1.Code) *solov1.DeployResponse {
	t.Helper()
	r, err := deploy(t, p, m, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call calls an operation of a service.
func call(t *testing.T, p rpc.Peer, service, op, payload string) (string, error) {
	t.Helper()
	return callWithin(t, 10*time.Second, p, service, op, payload)
}

func callWithin(t *testing.T, limit time.Duration, p rpc.Peer, service, op, payload string) (string, error) {
	t.Helper()
	s, err := subject.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg(subject.Call(s, op, p.ID))
	m.Data = []byte(payload)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := p.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return "", rpc.TransportError(err, service)
	}
	return string(r.Data), rpc.ReplyError(r)
}

// awaitCall repeats a call until it is answered.
func awaitCall(t *testing.T, p rpc.Peer, service, op, payload, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		// A call that was under way when its runner died is never answered.
		got, err := callWithin(t, time.Second, p, service, op, payload)
		if err == nil && got == want {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s %s: %q %v", service, op, got, err)
		}
	}
}
