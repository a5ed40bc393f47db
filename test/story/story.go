// Package story is what Solo is for, told by doing it: each step does something real with
// real processes, and fails when a value is not what it should be. `make demo` tells it to
// people, the end-to-end test to the build.
package story

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/world"
)

//go:embed testdata/hog
var hog embed.FS

// Story is one telling.
type Story struct {
	W *world.World
	// Examples is the folder of the example services.
	Examples string
	// Out is told what happens.
	Out io.Writer

	dir          string // for handles and built code
	alice, bob   string // handle files
	bobID        string
	as           *world.Client // alice
	acked, tried int64         // adds to the counter
}

// Step is one part of the story.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Steps in order; each needs those before it.
func (s *Story) Steps() []Step {
	return []Step{
		{"boot", s.boot},
		{"a handle for alice, limited to svc:alice/*", s.grantAlice},
		{"three services: Go source, WASM, native", s.deploy},
		{"calls", s.call},
		{"bob may get, and nothing else", s.grantBob},
		{"bob is revoked", s.revokeBob},
		{"kill -9 of the runner in the middle of calls", s.killRunner},
		{"kill -9 of each component in turn", s.killComponents},
		{"kill -9 of everything at once", s.killEverything},
		{"a memory hog and an infinite loop meet their limits", s.limits},
		{"the audit trail of all this", s.trail},
	}
}

// Run tells the whole story and stops at the first step that fails.
func (s *Story) Run(ctx context.Context) error {
	for i, step := range s.Steps() {
		s.say("\n[%d] %s", i+1, step.Name)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err := step.Do(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.Name, err)
		}
		s.say("    done in %s", round(time.Since(begin)))
	}
	return nil
}

func (s *Story) say(format string, a ...any) { fmt.Fprintf(s.Out, format+"\n", a...) }

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Nanosecond)
}

func (s *Story) solo(ctx context.Context, handle string, args ...string) (string, error) {
	r := s.W.Solo(ctx, handle, args...)
	if r.Code != 0 {
		return r.Out, fmt.Errorf("solo %s: exit %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Err))
	}
	return strings.TrimSpace(r.Out), nil
}

func (s *Story) boot(ctx context.Context) error {
	s.dir = filepath.Join(s.W.Home(), "story")
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	took, err := s.W.Start(ctx)
	if err != nil {
		return err
	}
	s.say("    ready after %s: gRPC %s, NATS %s, metrics %s", round(took), s.W.Addr["grpc"], s.W.Addr["nats"], s.W.Addr["metrics"])
	return nil
}

func (s *Story) grantAlice(ctx context.Context) error {
	s.alice = filepath.Join(s.dir, "alice.nk")
	if _, err := s.solo(ctx, "", "grant", "--rule", "svc:alice/*=*", "--ttl", "1h", "--depth", "2", "--label", "alice", "--out", s.alice); err != nil {
		return err
	}
	if i, err := os.Stat(s.alice); err != nil || i.Mode().Perm() != 0o600 {
		return fmt.Errorf("the handle's file is not 0600: %v %v", i, err)
	}
	seed, err := world.Handle(s.alice)
	if err != nil {
		return err
	}
	id, err := conn.ID(seed)
	if err != nil {
		return err
	}
	s.say("    alice is %s", id)
	if s.as, err = s.W.Client(seed); err != nil {
		return err
	}
	_, err = s.as.Status(ctx, &solov1.StatusRequest{Service: "bob/anything"})
	return wantFault(err, fault.ReasonNotGranted, "alice asks about bob/anything")
}

// build makes one example's code and returns its path.
func (s *Story) build(ctx context.Context, name string, env ...string) (string, error) {
	out := filepath.Join(s.dir, name)
	args := []string{"build", "-trimpath", "-o", out}
	if name == "wordcount" {
		out += ".wasm"
		args = []string{"build", "-trimpath", "-buildmode=c-shared", "-o", out}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = filepath.Join(s.Examples, name)
	cmd.Env = append(os.Environ(), append(env, "CGO_ENABLED=0")...)
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", name, err, b)
	}
	return out, nil
}

func (s *Story) deploy(ctx context.Context) error {
	wasm, err := s.build(ctx, "wordcount", "GOOS=wasip1", "GOARCH=wasm")
	if err != nil {
		return err
	}
	echo, err := s.build(ctx, "echo")
	if err != nil {
		return err
	}
	for _, d := range []struct {
		name, path, format, how string
		flags                   []string
	}{
		{"alice/counter", filepath.Join(s.Examples, "counter"), "go", "Solo compiled Go to WASM, and that to machine code", nil},
		{"alice/wordcount", wasm, "wasm", "Solo compiled the module to machine code", nil},
		{"alice/echo", echo, "binary", "it runs as it is", []string{"--protocol", "http"}},
	} {
		begin := time.Now()
		if _, err := s.solo(ctx, s.alice, append([]string{"deploy", d.name, d.path, "--format", d.format}, d.flags...)...); err != nil {
			return err
		}
		st, err := s.as.Status(ctx, &solov1.StatusRequest{Service: d.name})
		if err != nil {
			return err
		}
		if st.Service.State != solov1.ServiceState_SERVICE_STATE_RUNNING || len(st.Service.Instances) != 1 {
			return fmt.Errorf("%s is %s with %d instances", d.name, st.Service.State, len(st.Service.Instances))
		}
		s.say("    %-16s %-7s running %s after `solo deploy` began: %s", d.name, d.format, round(time.Since(begin)), d.how)
	}
	return nil
}

const prose = "It was the best of times, it was the worst of times, it was the age of wisdom"

func (s *Story) call(ctx context.Context) error {
	for _, c := range []struct{ service, op, in, want string }{
		{"alice/counter", "get", "", "0"},
		{"alice/wordcount", "count", prose, "18"},
		{"alice/echo", "echo", "hello", "hello"},
	} {
		var first, best time.Duration
		for i := range 50 {
			begin := time.Now()
			r, err := s.as.Call(ctx, &solov1.CallRequest{Service: c.service, Op: c.op, Body: &solov1.CallRequest_Text{Text: c.in}})
			took := time.Since(begin)
			if err != nil {
				return fmt.Errorf("%s %s: %w", c.service, c.op, err)
			}
			if !strings.Contains(r.Text, c.want) {
				return fmt.Errorf("%s %s answered %q, want %q", c.service, c.op, r.Text, c.want)
			}
			if i == 0 {
				first, best = took, took
			}
			best = min(best, took)
		}
		s.say("    %-16s %-6s -> %-10q first %s, best of 50 %s", c.service, c.op, c.want, round(first), round(best))
	}
	return s.add(ctx, 3)
}

// add adds one to the counter n times; every answer must be the number of adds so far.
func (s *Story) add(ctx context.Context, n int) error {
	for range n {
		s.tried++
		r, err := s.as.Call(ctx, &solov1.CallRequest{Service: "alice/counter", Op: "add"})
		if err != nil {
			return fmt.Errorf("add: %w", err)
		}
		s.acked++
		if got := strings.TrimSpace(r.Text); got != fmt.Sprint(s.acked) {
			return fmt.Errorf("add number %d answered %q", s.acked, got)
		}
	}
	return nil
}

func wantFault(err error, reason, what string) error {
	if err == nil {
		return fmt.Errorf("%s: allowed, want %s", what, reason)
	}
	if f := fault.From(err); f.Reason != reason {
		return fmt.Errorf("%s: %w, want %s", what, err, reason)
	}
	return nil
}

// unpack writes the misbehaving service to disk.
func (s *Story) unpack() (string, error) {
	dir := filepath.Join(s.dir, "hog")
	sub, err := fs.Sub(hog, "testdata/hog")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, sub); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}
