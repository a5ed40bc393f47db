package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/protobuf/proto"
)

// A gate that hangs is cut off and its process killed: a revocation is answered all the same, nothing that
// the revoked holder had sent takes effect, and another process goes on with the state.
func TestAGateThatHangsIsReplaced(t *testing.T) {
	w := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	solo(t, w, "", "deploy", "alice/counter", filepath.Join(examples(t), "counter"), "--format", "go")
	alice, err := world.Handle(grant(t, w, "alice", "svc:alice/*=*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"solo-runner", "solo-keeper", "solo-registry", "solo-deployer", "solo-gateway"} {
		t.Run(name, func(t *testing.T) {
			n := fmt.Sprint(i + 1)
			if got := counted(t, ctx, w, alice, "add"); got != n {
				t.Fatalf("the counter is %s, want %s", got, n)
			}
			seed, err := world.Handle(grant(t, w, fmt.Sprint("mallory", i), "svc:alice/counter=call:*"))
			if err != nil {
				t.Fatal(err)
			}
			root, mallory := raw(t, ctx, w, filepath.Join(w.Home(), "root.nk")), rawSeed(t, ctx, w, seed)
			pid := process(t, w, name)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if err := world.Until(ctx, "every thread has stopped", func() (bool, error) { return stopped(pid) }); err != nil {
				t.Fatal(err)
			}
			if name == "solo-runner" { // what it has in hand when it is gone
				for range 20 {
					if err := mallory.PublishRequest(subject.Call(counter(), "add", mallory.ID), mallory.NewInbox(), nil); err != nil {
						t.Fatal(err)
					}
				}
				if err := mallory.FlushWithContext(ctx); err != nil {
					t.Fatal(err)
				}
			}
			took := revoke(t, ctx, root, mallory.ID)
			select {
			case <-mallory.Closed:
			case <-ctx.Done():
				t.Error("the revoked holder is still connected")
			}
			if err := world.Until(ctx, "another process has taken over", func() (bool, error) {
				_, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
				now := find(w, name)
				return os.IsNotExist(err) && now != 0 && now != pid, nil
			}); err != nil {
				t.Fatal(err)
			}
			if got := counted(t, ctx, w, alice, "get"); got != n {
				t.Errorf("the counter is %s after the revocation, was %s before", got, n)
			}
			t.Logf("answered after %s", took.Round(time.Millisecond))
		})
	}
}

func counter() subject.Service { return subject.Service{Namespace: "alice", Name: "counter"} }

// counted calls the counter until it answers.
func counted(t *testing.T, ctx context.Context, w *world.World, seed, op string) (n string) {
	t.Helper()
	c, err := w.Client(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = world.Until(ctx, "the counter answers", func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		r, err := c.Call(ctx, &solov1.CallRequest{Service: "alice/counter", Op: op})
		n = strings.TrimSpace(r.GetText())
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// find is the process of a component, or the runner of alice, or 0.
func find(w *world.World, name string) int {
	if name == "solo-runner" {
		b, err := os.ReadFile(filepath.Join(w.Home(), "run", "helper-runner-alice.json"))
		var r struct{ PID int }
		if err != nil || json.Unmarshal(b, &r) != nil {
			return 0
		}
		return r.PID
	}
	ps, err := w.Named(name)
	if err != nil || len(ps) != 1 {
		return 0
	}
	return ps[0].PID
}

// stopped tells whether all threads of a process stand still: the signal takes effect one by one.
func stopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false, fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	for _, f := range threads {
		b, err := os.ReadFile(f)
		if err != nil {
			return false, nil // it has ended: look again
		}
		_, state, _ := strings.Cut(string(b), ") ")
		if !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return true, nil
}

func process(t *testing.T, w *world.World, name string) int {
	t.Helper()
	pid := find(w, name)
	if pid == 0 {
		t.Fatalf("there is no one process %s", name)
	}
	return pid
}

func raw(t *testing.T, ctx context.Context, w *world.World, file string) *world.Raw {
	t.Helper()
	seed, err := world.Handle(file)
	if err != nil {
		t.Fatal(err)
	}
	return rawSeed(t, ctx, w, seed)
}

func rawSeed(t *testing.T, ctx context.Context, w *world.World, seed string) *world.Raw {
	t.Helper()
	r, err := w.Raw(ctx, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// revoke asks capmgr itself, whatever else hangs.
func revoke(t *testing.T, ctx context.Context, as *world.Raw, id string) time.Duration {
	t.Helper()
	b, err := proto.Marshal(&solov1.RevokeCapabilityRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m, err := as.RequestWithContext(ctx, subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), as.ID), b)
	if err == nil {
		err = rpc.ReplyError(m)
	}
	if err != nil {
		t.Fatalf("revoke: %v", err)
	}
	return time.Since(begin)
}
