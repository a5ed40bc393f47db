package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/durationpb"
)

const wait = 30 * time.Second

// world is a home with a folder of stand-ins.
type world struct {
	t    *testing.T
	home string
	bin  string
	log  *os.File
}

func newWorld(t *testing.T) *world {
	t.Helper()
	home, err := os.MkdirTemp("", "solo")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, home: home, bin: filepath.Join(home, "bin")}
	t.Cleanup(func() {
		for _, name := range order() {
			if pid, _ := w.pid(name); pid > 0 && alive(pid) {
				t.Errorf("%s (%d) is left", name, pid)
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may end by itself
			}
		}
		if t.Failed() {
			b, _ := os.ReadFile(w.log.Name())
			t.Logf("log:\n%s", b)
		}
		if err := errors.Join(w.log.Close(), os.RemoveAll(home)); err != nil {
			t.Error(err)
		}
	})
	if w.log, err = os.Create(filepath.Join(home, "log")); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(order(), subject.Kernel) {
		if err := os.Symlink(exe, filepath.Join(w.bin, "solo-"+name)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.home, name) }

func (w *world) touch(name string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() Config {
	return Config{
		Home: w.home, BinDir: w.bin, GRPC: "127.0.0.1:0", NATS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Metrics: "127.0.0.1:0", LogLevel: "debug",
	}
}

// running is a kernel in this process.
type running struct {
	stop, hurry context.CancelFunc
	done        chan struct{}
	err         error
}

func (w *world) start() *running {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	hurry, now := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{stop: stop, hurry: now, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = Run(ctx, hurry, w.config(), w.log)
	}()
	w.t.Cleanup(func() { stop(); <-r.done; now() })
	return r
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(wait); !ok(); {
		if time.Now().After(end) {
			w.t.Fatalf("not in time: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// ready waits until all of Solo is ready and returns where it listens.
func (w *world) ready() (a map[string]string) {
	w.t.Helper()
	w.until("addresses.json is there", func() bool {
		b, err := os.ReadFile(w.path("run/addresses.json"))
		return err == nil && json.Unmarshal(b, &a) == nil
	})
	return a
}

func (w *world) pid(name string) (pid int, id string) {
	b, err := os.ReadFile(w.path("pid-" + name))
	if err != nil {
		return 0, ""
	}
	_, _ = fmt.Sscanf(string(b), "%d %s", &pid, &id) // half written: 0
	return pid, id
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func (w *world) allGone() {
	w.t.Helper()
	w.until("every component has ended", func() bool {
		for _, name := range order() {
			if pid, _ := w.pid(name); pid > 0 && alive(pid) {
				return false
			}
		}
		return true
	})
}

func (w *world) root(addr string) (*nats.Conn, string, error) {
	w.t.Helper()
	seed, err := os.ReadFile(w.path("root.nk"))
	if err != nil {
		w.t.Fatal(err)
	}
	return conn.Dial(w.t.Context(), conn.Options{Addr: addr, Seed: strings.TrimSpace(string(seed)), Name: "test"})
}

func TestBootAndShutdown(t *testing.T) {
	w := newWorld(t)
	w.touch(holdFile + subject.Gateway)
	r := w.start()
	var busAddr string
	w.until("the deployer is ready", func() bool { pid, _ := w.pid(subject.Deployer); return pid > 0 })
	w.until("the bus has said where it listens", func() bool {
		b, err := os.ReadFile(w.log.Name())
		_, rest, ok := strings.Cut(string(b), "Listening for client connections on ")
		busAddr, _, _ = strings.Cut(rest, `"`)
		return err == nil && ok
	})
	if _, _, err := w.root(busAddr); err == nil {
		t.Error("a holder connected before all components were ready")
	}
	if _, err := os.Stat(w.path("run/addresses.json")); err == nil {
		t.Error("addresses.json is there before all components are ready")
	}
	if err := os.Remove(w.path(holdFile + subject.Gateway)); err != nil {
		t.Fatal(err)
	}
	a := w.ready()
	if a["grpc"] != "127.0.0.1:1" || a["metrics"] != "127.0.0.1:2" || a["nats"] != busAddr || a["http"] != "127.0.0.1:0" && a["http"] != "" {
		t.Errorf("addresses %v", a)
	}
	if i, err := os.Stat(w.path("root.nk")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("root.nk: %v %v", i.Mode(), err)
	}
	nc, id, err := w.root(a["nats"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// A second kernel keeps out.
	if err := Run(t.Context(), t.Context(), w.config(), w.log); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second kernel: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var resp solov1.ShutdownResponse
	peer := rpc.Peer{Conn: nc, ID: id}
	if err := peer.Call(ctx, subject.Kernel, "shutdown", subject.Nothing(), &solov1.ShutdownRequest{GracePeriod: durationpb.New(20 * time.Second)}, &resp); err != nil {
		t.Fatal(err)
	}
	if !resp.GetDeadline().IsValid() || resp.GetDeadline().AsTime().Before(time.Now()) {
		t.Errorf("deadline %v", resp.GetDeadline())
	}
	<-r.done
	if r.err != nil {
		t.Errorf("the kernel ended with %v", r.err)
	}
	w.allGone()
	if _, err := os.Stat(w.path("run/addresses.json")); err == nil {
		t.Error("addresses.json is left")
	}
	if _, err := os.Stat(w.path(drainedFile + subject.Deployer)); err != nil {
		t.Error("the deployer was not told to drain")
	}
}

func TestComponentsComeBack(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.ready()
	for _, c := range []struct {
		name string
		sig  syscall.Signal
		with []string // restarted with it
		not  []string
	}{
		{subject.Registry, syscall.SIGKILL, []string{subject.Resmon, subject.Deployer, subject.Gateway}, []string{subject.Audit, subject.Capmgr}},
		{subject.Gateway, syscall.SIGKILL, nil, []string{subject.Audit, subject.Capmgr, subject.Registry, subject.Deployer}},
		{subject.Deployer, syscall.SIGSTOP, []string{subject.Gateway}, []string{subject.Registry}},
	} {
		before, ids := map[string]int{}, map[string]string{}
		for _, name := range order() {
			before[name], ids[name] = w.pid(name)
		}
		if err := syscall.Kill(before[c.name], c.sig); err != nil {
			t.Fatal(err)
		}
		for _, name := range append(c.with, c.name) {
			w.until(name+" comes back after "+c.name, func() bool {
				pid, id := w.pid(name)
				return pid > 0 && pid != before[name] && id != "" && id != ids[name]
			})
		}
		w.until("all run again", func() bool {
			b, err := os.ReadFile(w.log.Name())
			return err == nil && strings.Count(string(b), "all components run again") > 0
		})
		for _, name := range c.not {
			if pid, _ := w.pid(name); pid != before[name] {
				t.Errorf("%s was restarted with %s", name, c.name)
			}
		}
		if alive(before[c.name]) {
			t.Errorf("the old %s lives on", c.name)
		}
		if _, err := os.Stat(w.path(drainedFile + c.name)); err == nil {
			t.Errorf("%s was told to drain by a restart", c.name)
		}
	}
	r.stop()
	<-r.done
	if r.err != nil {
		t.Error(r.err)
	}
}

func TestStubbornComponentIsKilledWhenInAHurry(t *testing.T) {
	w := newWorld(t)
	w.touch(stubbornFile + subject.Registry)
	r := w.start()
	w.ready()
	r.stop()
	w.until("the resource monitor has ended", func() bool { pid, _ := w.pid(subject.Resmon); return !alive(pid) })
	r.hurry()
	<-r.done
	if r.err != nil {
		t.Error(r.err)
	}
	w.allGone()
}

// A kernel that is killed leaves nothing behind but its home, and the next one works on it.
func TestKilledKernel(t *testing.T) {
	w := newWorld(t)
	args := []string{"--home", w.home, "--grpc-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"}
	cmd := exec.Command(filepath.Join(w.bin, "solo-kernel"), args...)
	cmd.Stdout, cmd.Stderr = w.log, w.log
	cmd.Args = append(cmd.Args, "--bin", w.bin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := w.ready()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	w.allGone()
	for _, name := range order() {
		if err := os.Remove(w.path("pid-" + name)); err != nil {
			t.Fatal(err)
		}
	}
	r := w.start()
	w.until("the new kernel has written its addresses", func() bool { return w.ready()["nats"] != first["nats"] })
	nc, _, err := w.root(w.ready()["nats"])
	if err != nil {
		t.Fatalf("the operator's handle after a restart: %v", err)
	}
	nc.Close()
	r.stop()
	<-r.done
	if r.err != nil {
		t.Error(r.err)
	}
}

// User space does not open on records that do not fit together.
func TestBrokenChain(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.ready()
	r.stop()
	<-r.done
	if err := os.RemoveAll(w.path("bus")); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), t.Context(), w.config(), w.log)
	if err == nil || !strings.Contains(err.Error(), "user space stays closed") || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("an empty store under a head: %v", err)
	}
	if err := os.WriteFile(w.path("caps.head"), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), t.Context(), w.config(), w.log); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a head that nobody signed: %v", err)
	}
}

func TestMissingComponent(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(filepath.Join(w.bin, "solo-"+subject.Registry)); err != nil {
		t.Fatal(err)
	}
	r := w.start()
	w.until("the log says what is missing", func() bool {
		b, err := os.ReadFile(w.log.Name())
		return err == nil && strings.Contains(string(b), "solo-registry: no such file")
	})
	r.stop()
	<-r.done
}
