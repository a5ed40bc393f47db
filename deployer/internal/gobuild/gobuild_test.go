package gobuild_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/deployer/internal/gobuild"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
)

// TestMain lets this executable be the child in which a build runs.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "build" {
		os.Exit(gobuild.ChildMain(os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}

// folder keeps modules as files.
type folder struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (f *folder) Put(_ context.Context, b []byte) (string, error) {
	sum := sha256.Sum256(b)
	sha := hex.EncodeToString(sum[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[sha] = b
	return sha, nil
}

func (f *folder) Has(_ context.Context, sha string) (int64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.m[sha]
	return int64(len(b)), ok
}

// goCache is shared by the tests of this machine's user, as GOCACHE is: the first build into an empty
// one takes long.
func goCache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		return t.TempDir()
	}
	return filepath.Join(dir, "solo-test-go-build")
}

func newBuilder(t *testing.T, change func(*gobuild.Options)) (*gobuild.Builder, *folder) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &folder{m: map[string][]byte{}}
	o := gobuild.Options{Dir: t.TempDir(), GoCache: goCache(t), Exe: exe, Modules: f, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	b, err := gobuild.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b, f
}

const service = `package main

import (
	"context"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("echo", func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil })
}

func main() {}
`

func source(t *testing.T, files map[string]string) *gobuild.Source {
	t.Helper()
	s, err := gobuild.FromFiles(toBytes(files))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func toBytes(files map[string]string) map[string][]byte {
	m := map[string][]byte{}
	for k, v := range files {
		m[k] = []byte(v)
	}
	return m
}

func TestBuild(t *testing.T) {
	b, f := newBuilder(t, nil)
	files := map[string]string{"main.go": service, "go.mod": "module example.com/echo\n\ngo 1.24\n\nrequire github.com/solo-os/solo/sdk v0.1.0\n", "data/words.txt": "a b c"}
	r, err := b.Build(t.Context(), source(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if r.Cached || !bytes.HasPrefix(f.m[r.SHA256], []byte("\x00asm")) {
		t.Fatalf("%+v", r)
	}
	again, err := b.Build(t.Context(), source(t, files))
	if err != nil || !again.Cached || again.SHA256 != r.SHA256 {
		t.Fatalf("the same again: %+v %v", again, err)
	}
	// The archive of the same files is the same source.
	archive, err := source(t, files).Tar()
	if err != nil {
		t.Fatal(err)
	}
	s, err := gobuild.FromTar(archive)
	if err != nil {
		t.Fatal(err)
	}
	if again, err = b.Build(t.Context(), s); err != nil || !again.Cached {
		t.Fatalf("the same as an archive: %+v %v", again, err)
	}
	// A result whose module is gone is built again.
	clear(f.m)
	if again, err = b.Build(t.Context(), s); err != nil || again.Cached || again.SHA256 != r.SHA256 {
		t.Fatalf("after the module was lost: %+v %v", again, err)
	}
}

func TestBuildsOfOneSourceShareOneBuild(t *testing.T) {
	b, _ := newBuilder(t, nil)
	s := source(t, map[string]string{"main.go": strings.Replace(service, "echo", "shared", 1)})
	var wg sync.WaitGroup
	shas := make([]string, 4)
	for i := range shas {
		wg.Go(func() {
			r, err := b.Build(t.Context(), s)
			if err != nil {
				t.Error(err)
				return
			}
			shas[i] = r.SHA256
		})
	}
	wg.Wait()
	for _, s := range shas {
		if s != shas[0] {
			t.Errorf("%v", shas)
		}
	}
}

func TestDiagnostics(t *testing.T) {
	b, _ := newBuilder(t, nil)
	for name, c := range map[string]struct {
		files map[string]string
		at    string
		says  string
	}{
		"undefined": {map[string]string{"main.go": "package main\n\nfunc main() {\n\tundefined()\n}\n"}, "main.go:4:2", "undefined"},
		"syntax":    {map[string]string{"main.go": "package main\n\nfunc main() {\n"}, "main.go:", "syntax"},
		"import":    {map[string]string{"main.go": "package main\n\nimport _ \"example.com/nothing\"\n\nfunc main() {}\n"}, "main.go:3:8", "package example.com/nothing cannot be imported: services are built without a network"},
		"no guest":  {map[string]string{"main.go": "package main\n\nfunc main() {}\n"}, "main.go:1", "call guest.Handle in init()"},
		"package":   {map[string]string{"main.go": "package service\n"}, "main.go:1:1", "package main"},
		"inner":     {map[string]string{"main.go": "package main\n\nimport _ \"service/inner\"\n\nfunc main() {}\n", "inner/a.go": "package inner\n\nvar X int = \"x\"\n"}, "inner/a.go:3:", "string"},
		"cgo":       {map[string]string{"main.go": "package main\n\nimport \"C\"\n\nfunc main() {}\n"}, "", ""},
		"version":   {map[string]string{"main.go": service, "go.mod": "module x\n\ngo 1.999\n"}, "go.mod", "1.999"},
		"bad mod":   {map[string]string{"main.go": service, "go.mod": "modul x\n"}, "go.mod", "modul"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := gobuild.FromFiles(toBytes(c.files))
			if err == nil {
				_, err = b.Build(t.Context(), s)
			}
			e, ok := errors.AsType[*fault.Error](err)
			if !ok || e.Reason != fault.ReasonBuildFailed || e.Code != codes.InvalidArgument {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(e.Message, c.at) || !strings.Contains(e.Message, c.says) || len(e.Fields) == 0 {
				t.Errorf("%q, fields %+v", e.Message, e.Fields)
			}
			var ds []map[string]any
			if err := json.Unmarshal([]byte(e.Metadata["diagnostics"]), &ds); err != nil || len(ds) != len(e.Fields) {
				t.Errorf("diagnostics %q: %v", e.Metadata["diagnostics"], err)
			}
		})
	}
}

func TestSourceRefused(t *testing.T) {
	link := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: "x.go", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	escape := func(name string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		err := w.WriteHeader(&tar.Header{Name: name, Size: 1})
		_, werr := w.Write([]byte("x"))
		if err := errors.Join(err, werr, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, b := range map[string][]byte{"text": []byte("just text"), "link": link(), "up": escape("../../x.go"), "absolute": escape("/etc/x.go"), "cut": escape("main.go")[:300]} {
		if _, err := gobuild.FromTar(b); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("tar %s: %v", name, err)
		}
	}
	for _, name := range []string{"", "../x.go", "/x.go", "a/../x.go", "a//b.go", "./x.go", "a\\b.go", "C:x.go", "a\nb.go", strings.Repeat("a", 201) + ".go", "con.go/aux/\x00.go"} {
		if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": service, name: "package main"})); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("file %q: %v", name, err)
		}
	}
	for name, mod := range map[string]string{
		"other module": "module x\n\nrequire github.com/pkg/errors v0.9.1\n",
		"replace":      "module x\n\nreplace golang.org/x/net => /etc\n",
		"exclude":      "module x\n\nexclude golang.org/x/net v0.1.0\n",
		"self":         "module github.com/solo-os/solo/sdk\n",
	} {
		if _, err := gobuild.FromFiles(toBytes(map[string]string{"main.go": service, "go.mod": mod})); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("go.mod with %s: %v", name, err)
		}
	}
	if _, err := gobuild.FromFiles(toBytes(map[string]string{"a/b.go": service})); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("nothing at the root: %v", err)
	}
	many := map[string]string{"main.go": service}
	for i := range gobuild.MaxFiles {
		many["f"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+".txt"] = ""
	}
	if _, err := gobuild.FromFiles(toBytes(many)); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("many files: %v", err)
	}
	if _, err := gobuild.FromFiles(map[string][]byte{"main.go": make([]byte, gobuild.MaxBytes+1)}); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("large: %v", err)
	}
}

func TestABuildThatTakesTooLongIsStopped(t *testing.T) {
	b, _ := newBuilder(t, func(o *gobuild.Options) { o.Timeout, o.GoCache = time.Millisecond, t.TempDir() })
	_, err := b.Build(t.Context(), source(t, map[string]string{"main.go": service}))
	if !fault.Is(err, fault.ReasonBuildFailed) || !strings.Contains(err.Error(), "longer than") {
		t.Fatal(err)
	}
}

func TestABuildThatNeedsTooMuchMemoryFails(t *testing.T) {
	b, _ := newBuilder(t, func(o *gobuild.Options) { o.MemoryBytes = 1 << 20 })
	if _, err := b.Build(t.Context(), source(t, map[string]string{"main.go": service})); !fault.Is(err, fault.ReasonBuildFailed) {
		t.Fatal(err)
	}
}

func TestNoToolchain(t *testing.T) {
	b, _ := newBuilder(t, func(o *gobuild.Options) { o.Go = filepath.Join(o.Dir, "no-such-go") })
	_, err := b.Build(t.Context(), source(t, map[string]string{"main.go": service}))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Code != codes.FailedPrecondition || e.Help == "" {
		t.Fatal(err)
	}
	if b.Warm(t.Context()) == nil {
		t.Error("warmed without a toolchain")
	}
}

func TestWhoeverGivesUpWaitingLeavesTheBuild(t *testing.T) {
	b, _ := newBuilder(t, nil)
	s := source(t, map[string]string{"main.go": strings.Replace(service, "echo", "patience", 1)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Build(ctx, s); err == nil {
		t.Fatal("built without waiting")
	}
	if _, err := b.Build(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if _, err := b.Build(t.Context(), source(t, map[string]string{"main.go": strings.Replace(service, "echo", "closed", 1)})); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestWarm(t *testing.T) {
	b, f := newBuilder(t, nil)
	for range 2 {
		if err := b.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.m) > 1 {
		t.Errorf("%d modules", len(f.m))
	}
}

func TestChildMisuse(t *testing.T) {
	var out bytes.Buffer
	if code := gobuild.ChildMain(nil, &out); code != 2 || !strings.Contains(out.String(), "usage") {
		t.Errorf("%d %s", code, &out)
	}
}
