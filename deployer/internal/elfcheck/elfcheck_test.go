package elfcheck_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/elfcheck"
	"github.com/solo-os/solo/proto/fault"
)

func program(t *testing.T, env ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-o", out, "main.go")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GO111MODULE=auto"), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func check(b []byte) error { return elfcheck.Check(bytes.NewReader(b), int64(len(b))) }

func TestCheck(t *testing.T) {
	static := program(t)
	if err := check(static); err != nil {
		t.Fatal(err)
	}
	other := "arm64"
	if strings.Contains(os.Getenv("GOARCH"), "arm64") {
		other = "amd64"
	}
	dynamic, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		says string
	}{
		"empty":         {nil, "empty"},
		"text":          {[]byte("hello, I am a text file, not a program at all"), "no ELF"},
		"script":        {[]byte("#!/bin/sh\necho\n"), "script"},
		"module":        {[]byte("\x00asm\x01\x00\x00\x00"), "format to wasm"},
		"windows":       {program(t, "GOOS=windows"), "Windows"},
		"other machine": {program(t, "GOARCH="+other), "built for"},
		"dynamic":       {dynamic, "dynamically linked"},
		"header alone":  {static[:64], "damaged or cut off"},
		"half":          {static[:len(static)/2], "cut off"},
		"magic alone":   {[]byte("\x7fELF"), "damaged"},
	} {
		err := check(c.b)
		if !fault.Is(err, fault.ReasonBinaryInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Damaged headers are refused or harmless, never a crash.
func TestDamage(t *testing.T) {
	static := program(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(static[:4096])
		for range 1 + r.IntN(8) {
			b[r.IntN(1024)] ^= byte(1 << r.IntN(8))
		}
		if err := check(b); err != nil && !fault.Is(err, fault.ReasonBinaryInvalid) {
			t.Fatal(err)
		}
	}
}
