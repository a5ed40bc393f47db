package engine_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	"github.com/solo-os/solo/proto/fault"
)

func TestCompileVerdicts(t *testing.T) {
	r := newRig(t)
	good, err := os.ReadFile(guests.kitchen)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(enginetest.Echo())
	flipped[len(flipped)-3] ^= 0x7f
	for name, c := range map[string]struct {
		code   []byte
		reason string
	}{
		"good":      {enginetest.Echo(), ""},
		"truncated": {good[:len(good)/2], fault.ReasonModuleInvalid},
		"flipped":   {flipped, fault.ReasonModuleInvalid},
		"source":    {[]byte("package main"), fault.ReasonModuleInvalid},
		"export":    {enginetest.Module{}.Encode(), fault.ReasonModuleExportMissing},
	} {
		path := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(path, c.code, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := r.child.Compile(t.Context(), path)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason == "" && (v.Error != nil || v.Kind != "reactor" || len(v.Exports) == 0):
			t.Errorf("%s: %+v", name, v)
		case c.reason != "" && !fault.Is(v.Error, c.reason):
			t.Errorf("%s: %v, want %s", name, v.Error, c.reason)
		}
		if c.reason != "" {
			if _, _, err := r.eng.Load(t.Context(), path, v.SHA256, r.child.Compile); !fault.Is(err, c.reason) {
				t.Errorf("%s: loading gave %v", name, err)
			}
		}
	}
}

func TestCompileFromStdin(t *testing.T) {
	var out, errs bytes.Buffer
	dir := t.TempDir()
	code := engine.CompileMain(t.Context(), []string{"-cache", dir}, bytes.NewReader(enginetest.Echo()), &out, &errs)
	if code != 0 || !strings.Contains(out.String(), `"kind":"reactor"`) {
		t.Errorf("exit %d: %s%s", code, &out, &errs)
	}
	out.Reset()
	code = engine.CompileMain(t.Context(), []string{"-cache", dir}, bytes.NewReader(enginetest.Echo()), &out, &errs)
	if code != 0 || !strings.Contains(out.String(), `"cached":true`) {
		t.Errorf("exit %d: %s%s", code, &out, &errs)
	}
	for _, args := range [][]string{{}, {"-x"}, {"-cache", dir, "a", "b"}} {
		if code := engine.CompileMain(t.Context(), args, nil, &out, &errs); code != 2 {
			t.Errorf("%q: exit %d", args, code)
		}
	}
	if code := engine.CompileMain(t.Context(), []string{"-h"}, nil, &out, &errs); code != 0 {
		t.Errorf("help: exit %d", code)
	}
	if code := engine.CompileMain(t.Context(), []string{"-cache", dir, filepath.Join(dir, "none")}, nil, &out, &errs); code != 1 {
		t.Errorf("no file: exit %d", code)
	}
}

func TestCompileLimits(t *testing.T) {
	r := rigAt(t, t.TempDir())
	c := r.child
	c.MemoryBytes = 32 << 20
	if _, err := c.Compile(t.Context(), guests.kitchen); !fault.Is(err, fault.ReasonModuleLimit) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("got %v", err)
	}
	c = r.child
	c.Timeout = time.Millisecond
	if _, err := c.Compile(t.Context(), guests.kitchen); !fault.Is(err, fault.ReasonModuleLimit) || !strings.Contains(err.Error(), "longer") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.child.Compile(ctx, guests.kitchen); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	c.Timeout, c.Exe = 0, "/bin/false"
	if _, err := c.Compile(t.Context(), guests.kitchen); !fault.Is(err, fault.ReasonInternal) {
		t.Errorf("got %v", err)
	}
	c.Exe = "/bin/true"
	if _, err := c.Compile(t.Context(), guests.kitchen); !fault.Is(err, fault.ReasonInternal) {
		t.Errorf("got %v", err)
	}
}

// TestDamagedCacheIsRebuilt damages the compiled code and the index in turn: the module still loads
// and answers.
func TestDamagedCacheIsRebuilt(t *testing.T) {
	dir := t.TempDir()
	code := filepath.Join(t.TempDir(), "m")
	if err := os.WriteFile(code, enginetest.Echo(), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := rigAt(t, dir).child.Compile(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := filepath.Glob(filepath.Join(dir, "wazero-*", "*"))
	if err != nil || len(compiled) != 1 {
		t.Fatalf("compiled files %q, %v", compiled, err)
	}
	for name, damage := range map[string]func() error{
		"truncated":  func() error { return os.Truncate(compiled[0], 10) },
		"empty":      func() error { return os.Truncate(compiled[0], 0) },
		"missing":    func() error { return os.Remove(compiled[0]) },
		"index gone": func() error { return os.Remove(filepath.Join(dir, v.SHA256+".json")) },
		"index bad":  func() error { return os.WriteFile(filepath.Join(dir, v.SHA256+".json"), []byte("{"), 0o600) },
		"flipped": func() error {
			b, err := os.ReadFile(compiled[0])
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(compiled[0], b, 0o600)
		},
		"index of another": func() error {
			return os.WriteFile(filepath.Join(dir, v.SHA256+".json"), []byte(`{"verdict":{"sha256":"x"},"file":"../x"}`), 0o600)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		r := rigAt(t, dir)
		m, cached, err := r.eng.Load(t.Context(), code, v.SHA256, r.child.Compile)
		if err != nil || cached {
			t.Errorf("%s: cached %v, %v", name, cached, err)
			continue
		}
		if got, err := call(start(t, m, engine.InstanceConfig{}), "x", "hi"); err != nil || got != "hi" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if _, cached, err := r.eng.Load(t.Context(), code, v.SHA256, r.child.Compile); err != nil || !cached {
			t.Errorf("%s: second load: cached %v, %v", name, cached, err)
		}
	}
}

func TestLoadRefusesWhatIsNotThere(t *testing.T) {
	r := newRig(t)
	sha := strings.Repeat("0", 64)
	if _, _, err := r.eng.Load(t.Context(), "/nowhere", sha, r.child.Compile); !fault.Is(err, fault.ReasonArtifactNotFound) {
		t.Errorf("got %v", err)
	}
	if _, _, err := r.eng.Load(t.Context(), guests.upper, sha, r.child.Compile); !fault.Is(err, fault.ReasonDataLoss) {
		t.Errorf("got %v", err)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	r := rigAt(t, dir)
	var last string
	for _, code := range [][]byte{enginetest.Echo(), enginetest.Trap(), enginetest.Spin()} {
		path := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(path, code, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := r.child.Compile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		last = v.SHA256
	}
	stale := filepath.Join(dir, "compile-dead")
	if err := os.Mkdir(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	info, err := filepath.Glob(filepath.Join(dir, "wazero-*", "*"))
	if err != nil || len(info) != 3 {
		t.Fatalf("%q, %v", info, err)
	}
	tight, err := engine.OpenCache(dir, 8000)
	if err != nil {
		t.Fatal(err)
	}
	if err := tight.Prune(); err != nil {
		t.Fatal(err)
	}
	if _, ok := tight.Lookup(last); !ok {
		t.Error("the newest is gone")
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a dead compiler's directory is still there")
	}
	tiny, err := engine.OpenCache(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := tiny.Prune(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	if tiny.Dir() != dir {
		t.Error("dir")
	}
}
