package source

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackTakesThePackageAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"main.go": "package main", "go.mod": "module x", "go.sum": "", "sub/a.go": "package sub", "main_test.go": "package main",
		".secret.go": "x", "_draft.go": "x", ".git/a.go": "x", "testdata/b.go": "x", "vendor/c.go": "x", "README.md": "x",
		"other/go.mod": "module y", "other/d.go": "x", "id_rsa": "x",
	})
	f, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(slices.Sorted(maps.Keys(f.GetFiles())), " "); got != "go.mod go.sum main.go sub/a.go" {
		t.Error(got)
	}
	if string(f.GetFiles()["sub/a.go"]) != "package sub" {
		t.Error("contents differ")
	}
}

func TestPackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		link  string
		want  string
	}{
		"no go":     {files: map[string]string{"README.md": "x", "sub/a.go": "package a"}, want: "holds no Go package"},
		"too large": {files: map[string]string{"a.go": strings.Repeat("x", MaxBytes), "b.go": "x"}, want: "bytes of source"},
		"long path": {files: map[string]string{strings.Repeat("a", 100) + "/" + strings.Repeat("b", 100) + ".go": "x"}, want: "more than 200"},
		"link":      {files: map[string]string{"a.go": "x"}, link: "b.go", want: "no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			if c.link != "" {
				if err := os.Symlink("/etc/passwd", filepath.Join(dir, c.link)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Pack(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	dir := t.TempDir()
	many := map[string]string{}
	for i := range MaxFiles + 1 {
		many["f"+strconv.Itoa(i)+".go"] = ""
	}
	write(t, dir, many)
	if _, err := Pack(dir); err == nil || !strings.Contains(err.Error(), "more than 512 files") {
		t.Error(err)
	}
	if _, err := Pack(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there was packed")
	}
}

func TestGuess(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"w": "\x00asm\x01", "e": "\x7fELF", "t": "text", "m.go": "package main", "empty": ""})
	for name, want := range map[string]solov1.Format{"": solov1.Format_FORMAT_GO_SOURCE, "w": solov1.Format_FORMAT_WASM, "e": solov1.Format_FORMAT_BINARY} {
		if got, err := Guess(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%q: %v %v", name, got, err)
		}
	}
	for _, name := range []string{"t", "m.go", "empty", "none"} {
		if got, err := Guess(filepath.Join(dir, name)); err == nil {
			t.Errorf("%q: %v", name, got)
		}
	}
}
