package scaffold

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/solo-os/solo/sdk"
	"github.com/solo-os/solo/sdk/manifest"
)

// What init writes is a manifest that parses and source that compiles against the SDK alone.
func TestWhatIsWrittenBuilds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hello")
	if err := Go(dir, "demo/hello"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "manifest.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := manifest.Parse("manifest.yaml", b); err != nil || doc.Source == "" || doc.Manifest.GetName() != "demo/hello" {
		t.Fatal(doc, err)
	}
	files, err := sdk.GuestModule()
	if err != nil {
		t.Fatal(err)
	}
	guest := t.TempDir()
	for name, b := range files {
		p := filepath.Join(guest, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mod := "module hello\n\ngo 1.26\n\nrequire " + sdk.Module + " v0.0.0\n\nreplace " + sdk.Module + " => " + guest + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "vet", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestNameOf(t *testing.T) {
	for in, want := range map[string]string{
		"hello": "hello", "My Folder": "my-folder", "2nd": "nd", "99": "service", "": "service", "a.b_c-": "a-b-c",
		"x123456789012345678901234567890123456789012345": "x123456789012345678901234567890123456789",
	} {
		if got := NameOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
