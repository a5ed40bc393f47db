package sdk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/sdk"
)

// TestGuestModuleBuildsAService writes the module out, offline and alone, and builds a service on it.
func TestGuestModuleBuildsAService(t *testing.T) {
	files, err := sdk.GuestModule()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(path string, b []byte) {
		t.Helper()
		full := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, b := range files {
		write("sdk/"+path, b)
	}
	write("svc/go.mod", []byte("module svc\n\ngo 1.26\n\nrequire "+sdk.Module+" v0.0.0\n\nreplace "+sdk.Module+" => ../sdk\n"))
	write("svc/main.go", []byte(`package main

import (
	"context"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("get", func(ctx context.Context, payload []byte) ([]byte, error) {
		v, _, err := guest.State().Get(ctx, "n")
		return v, err
	})
}

func main() {}
`))
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", filepath.Join(dir, "svc.wasm"), ".")
	cmd.Dir = filepath.Join(dir, "svc")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOPROXY=off", "GOSUMDB=off",
		"GOTOOLCHAIN=local", "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
