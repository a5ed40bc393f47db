package gobuild_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/gobuild"
	"github.com/solo-os/solo/proto/fault"
)

// pack makes an archive with no more sense than its sender has.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644})
		_, werr := w.Write([]byte(content))
		if err := errors.Join(err, werr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// either sends files in both ways that there are and builds what is let in.
func either(t *testing.T, b *gobuild.Builder, files map[string]string) (errs [2]error) {
	t.Helper()
	for i, read := range []func() (*gobuild.Source, error){
		func() (*gobuild.Source, error) { return gobuild.FromFiles(toBytes(files)) },
		func() (*gobuild.Source, error) { return gobuild.FromTar(pack(t, files)) },
	} {
		s, err := read()
		if err == nil {
			_, err = b.Build(t.Context(), s)
		}
		errs[i] = err
	}
	return errs
}

// A file of the host that an assembler includes would stand in the diagnostics.
func TestAttackSourceReadsAFileOfTheHost(t *testing.T) {
	dir := t.TempDir()
	const secret = "SUSECRETSECRET"
	if err := os.WriteFile(filepath.Join(dir, "root.nk"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, f := newBuilder(t, func(o *gobuild.Options) { o.Dir = filepath.Join(dir, "deployer", "build") })
	main := "package main\n\nfunc leak()\n\nfunc main() { leak() }\n"
	for name, files := range map[string]map[string]string{
		"assembly":         {"main.go": main, "a.s": "#include \"../../../../root.nk\"\n"},
		"assembly inside":  {"main.go": "package main\n\nimport _ \"service/in\"\n\nfunc main() {}\n", "in/in.go": "package in\n\nfunc leak()\n", "in/a.s": "#include \"../../../../../root.nk\"\n"},
		"assembly, header": {"main.go": main, "a.s": "#include \"a.h\"\n", "a.h": "#include \"../../../../root.nk\"\n"},
		"embed up":         {"main.go": "package main\n\nimport _ \"embed\"\n\n//go:embed ../../../../root.nk\nvar b []byte\n\nfunc main() { println(b) }\n"},
		"embed absolute":   {"main.go": "package main\n\nimport _ \"embed\"\n\n//go:embed " + filepath.Join(dir, "root.nk") + "\nvar b []byte\n\nfunc main() { println(b) }\n"},
		"line":             {"main.go": "package main\n\n//line " + filepath.Join(dir, "root.nk") + ":1\nvar x int = \"\"\n\nfunc main() {}\n"},
	} {
		for i, err := range either(t, b, files) {
			if err == nil {
				t.Errorf("%s, way %d: built", name, i)
				continue
			}
			e := fault.From(err)
			said := e.Error()
			for _, x := range e.Fields {
				said += x.Path + x.Description
			}
			for _, v := range e.Metadata {
				said += v
			}
			named := name == "embed absolute" // its sender has the folder's name already
			if strings.Contains(said, secret) || strings.Contains(said, dir) && !named {
				t.Errorf("%s, way %d: the answer has what is the host's: %s", name, i, said)
			}
		}
	}
	if len(f.m) > 0 {
		t.Errorf("%d modules", len(f.m))
	}
}

func TestFilesThatTheToolchainActsOnAreRefused(t *testing.T) {
	for _, name := range []string{
		"a.s", "a.S", "a.sx", "a.h", "a.hh", "a.hpp", "a.hxx", "a.syso", "a.c", "a.cc", "a.cpp", "a.cxx", "a.m", "a.f", "a.F", "a.for", "a.f90", "a.swig", "a.swigcxx",
		"default.pgo", "go.work", "go.env", "go.work.sum", "in/go.mod", "in/go.sum", "vendor/modules.txt/x.s", ".netrc", "Makefile", "a.GO", "a.go ", "main.go/b.go", "x.tar",
	} {
		for way, err := range map[string]error{
			"files":   second(gobuild.FromFiles(toBytes(map[string]string{"main.go": service, name: "x"}))),
			"archive": second(gobuild.FromTar(pack(t, map[string]string{"main.go": service, name: "x"}))),
		} {
			if e := fault.From(err); err == nil || e.Reason != fault.ReasonInvalidArgument || !strings.Contains(e.Message, name) && name != "main.go/b.go" {
				t.Errorf("%q by %s: %v", name, way, err)
			}
		}
	}
	for _, name := range []string{"data.txt", "in/README.md", "x.JSON", "logo.png", "go.sum", "in/b_test.go"} {
		if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": service, name: "package in"})); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func second(_ *gobuild.Source, err error) error { return err }

func TestWhatOnlyCgoMaySayIsRefusedAtItsPlace(t *testing.T) {
	for name, c := range map[string]struct{ text, at string }{
		"import":   {"package main\n\nimport \"C\"\n\nfunc main() {}\n", "main.go:3:8"},
		"raw":      {"package main\n\nimport (\n\t\"fmt\"\n\tx `C`\n)\n\nfunc main() { fmt.Println() }\n", "main.go:5:2"},
		"dynamic":  {"package main\n\n//go:cgo_import_dynamic a b \"/etc/passwd\"\n\nfunc main() {}\n", "main.go:3:1"},
		"ldflag":   {"package main\n\nfunc main() {} //go:cgo_ldflag \"-x\"\n", "main.go:3:16"},
		"renamed":  {"//line other.go:7\npackage main\n\n//go:cgo_export_static main\nfunc main() {}\n", "main.go:4:1"},
		"unsound":  {"package main\n\nfunc main() { {{{ '\n//go:cgo_unsafe_args\n", "main.go:4:1"},
		"in inner": {"package main\n\nfunc main() {}\n", "in/in.go:3:8"},
	} {
		files := map[string]string{"main.go": c.text}
		if name == "in inner" {
			files["in/in.go"] = "package in\n\nimport \"C\"\n"
		}
		_, err := gobuild.FromFiles(toBytes(files))
		e := fault.From(err)
		if err == nil || e.Reason != fault.ReasonBuildFailed || len(e.Fields) != 1 || e.Fields[0].Path != "code.files["+c.at+"]" || !strings.Contains(e.Message, "cgo") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": "package main\n\nvar _ = `\n//go:cgo_ldflag`\n\nfunc main() {}\n"})); err != nil {
		t.Errorf("in a string: %v", err)
	}
}

func TestLinesOfGoModThatSteerTheToolchainAreRefused(t *testing.T) {
	for _, line := range []string{
		"toolchain go1.26.0", "tool example.com/x", "godebug default=go1.21", "ignore ./x", "retract v1.0.0", "exclude golang.org/x/net v0.1.0", "replace golang.org/x/net => /etc",
	} {
		if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": service, "go.mod": "module x\n\ngo 1.25\n\n" + line + "\n"})); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, name := range []string{"std", "cmd"} {
		if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": service, "go.mod": "module " + name + "\n"})); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("module %s: %v", name, err)
		}
	}
}
