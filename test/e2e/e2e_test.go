// Package e2e runs the whole of Solo as real processes and does to it what its users, and its
// enemies, would do.
package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/test/story"
	"github.com/solo-os/solo/test/world"
)

// bin is the folder of the binaries: SOLO_TEST_BIN, or a fresh build.
func bin(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SOLO_TEST_BIN"); dir != "" {
		return dir
	}
	return build(t)
}

// build makes all binaries with build tags.
func build(t *testing.T, tags ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-tags", strings.Join(tags, ","), "-o", dir+"/", "work")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	return dir
}

// home is a short folder: Unix sockets lie below it.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "solo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// lockedBuffer keeps what a kernel wrote, for failed tests.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	return s[max(0, len(s)-n):]
}

// newWorld is a world that is not started; whatever runs of it ends with the test.
func newWorld(t *testing.T, bin string, env ...string) *world.World {
	t.Helper()
	return loggedWorld(t, bin, &lockedBuffer{}, env...)
}

// loggedWorld is newWorld for those who read the log.
func loggedWorld(t *testing.T, bin string, log *lockedBuffer, env ...string) *world.World {
	t.Helper()
	w, err := world.New(world.Options{Bin: bin, Home: home(t), Log: log, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := w.Gone(ctx); err != nil {
			t.Error(err)
			if _, err := w.KillAll(ctx); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("the end of the kernel's log:\n%s", log.tail(16000))
		}
	})
	return w
}

// start is a running world.
func start(t *testing.T) *world.World {
	t.Helper()
	w := newWorld(t, bin(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// solo runs the command line and fails the test when it fails.
func solo(t *testing.T, w *world.World, handle string, args ...string) string {
	t.Helper()
	r := w.Solo(t.Context(), handle, args...)
	if r.Code != 0 {
		t.Fatalf("solo %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return strings.TrimSpace(r.Out)
}

// grant makes a handle file.
func grant(t *testing.T, w *world.World, name string, rules ...string) string {
	t.Helper()
	file := filepath.Join(w.Home(), name+".nk")
	args := []string{"grant", "--ttl", "1h", "--depth", "2", "--label", name, "--out", file}
	for _, r := range rules {
		args = append(args, "--rule", r)
	}
	solo(t, w, "", args...)
	return file
}

func examples(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func TestStory(t *testing.T) {
	w := newWorld(t, bin(t))
	s := &story.Story{W: w, Examples: examples(t), Out: testWriter{t}}
	for _, step := range s.Steps() {
		if !t.Run(step.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			s.Out = testWriter{t}
			if err := step.Do(ctx); err != nil {
				t.Fatal(err)
			}
		}) {
			t.Fatal("the rest of the story needs this step")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.Out = testWriter{t}
	if err := s.End(ctx); err != nil {
		t.Fatal(err)
	}
}
