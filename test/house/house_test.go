// Package house holds the rules of this repository as tests, each with its reason.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const (
	prefix  = "github.com/solo-os/solo/"
	version = "v0.1.0"
	root    = "../.."
)

// layers is the order of imports: a module may import those listed for it and no other sibling.
func layers() map[string][]string {
	component := []string{"proto", "sdk", "bus"}
	return map[string][]string{
		"proto":    {},
		"sdk":      {"proto"},
		"bus":      {"proto", "sdk"},
		"kernel":   component,
		"capmgr":   component,
		"resmon":   component,
		"deployer": component,
		"gateway":  component,
		"services": component,
		"examples": {"sdk"},
		"test":     {"proto", "sdk", "bus", "kernel", "capmgr", "resmon", "deployer", "gateway", "services"},
	}
}

type file struct {
	path   string // slash-separated, from the root
	module string
	ast    *ast.File
	set    *token.FileSet
}

// sources are all Go files of all modules, generated ones left out.
func sources(t *testing.T) (out []file) {
	t.Helper()
	for m := range layers() {
		err := filepath.WalkDir(filepath.Join(root, m), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, ".pb.go") {
				return nil
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, p)
			out = append(out, file{filepath.ToSlash(rel), m, f, set})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 50 {
		t.Fatalf("only %d source files found: this test looks in the wrong place", len(out))
	}
	return out
}

func (f file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// Imports point one way, so that a change in one component cannot break another except
// through a subject.
func TestLayers(t *testing.T) {
	for _, f := range sources(t) {
		allowed := layers()[f.module]
		for _, i := range f.ast.Imports {
			p, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), prefix)
			if !ok {
				continue
			}
			m, _, _ := strings.Cut(p, "/")
			if m != f.module && !slices.Contains(allowed, m) {
				t.Errorf("%s imports %s: %s may import %v only", f.path, p, f.module, allowed)
			}
			if f.module == "services" {
				mine, theirs := strings.Split(f.path, "/")[1], strings.Split(p, "/")
				if m == "services" && len(theirs) > 1 && theirs[1] != mine {
					t.Errorf("%s imports %s: components meet on subjects, they do not import one another", f.path, p)
				}
			}
		}
	}
}

// The rules' core is pure: what decides about rights must be readable and testable alone.
func TestCoreIsPure(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() || (!strings.HasPrefix(f.path, "proto/capability/") && !strings.HasPrefix(f.path, "proto/subject/")) {
			continue
		}
		for _, i := range f.ast.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			if strings.Contains(p, ".") && p != prefix+"proto/subject" || p == "time" || p == "os" || p == "net" {
				t.Errorf("%s imports %s", f.path, p)
			}
		}
	}
}

// Only the part of the world that hosts guests knows the WASM runtime; only the bus knows the server.
func TestHeavyDependenciesStayInTheirRooms(t *testing.T) {
	rooms := map[string][]string{
		"github.com/tetratelabs/wazero":        {"deployer/internal/engine/", "deployer/internal/runner/"},
		"github.com/nats-io/nats-server/v2":    {"bus/embed/", "bus/fence/", "bus/bustest/", "bus/jstest/", "kernel/"},
		"github.com/spf13/cobra":               {"sdk/cmd/", "sdk/internal/"},
		"google.golang.org/grpc/reflection":    {"gateway/"},
		"github.com/prometheus/common/expfmt":  {"bus/daemon/", "resmon/"},
		"github.com/nats-io/nats.go/jetstream": {"bus/", "kernel/", "capmgr/", "services/", "deployer/", "resmon/", "test/"},
	}
	for _, f := range sources(t) {
		if f.test() || f.module == "test" {
			continue
		}
		for _, i := range f.ast.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			for dep, in := range rooms {
				if (p == dep || strings.HasPrefix(p, dep+"/")) && !slices.ContainsFunc(in, func(r string) bool { return strings.HasPrefix(f.path, r) }) {
					t.Errorf("%s imports %s, which belongs in %v", f.path, p, in)
				}
			}
		}
	}
}

// A reader learns what a package promises from one place.
func TestOnePackageDoc(t *testing.T) {
	docs, pkgs := map[string][]string{}, map[string]bool{}
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		dir := filepath.Dir(f.path)
		pkgs[dir] = true
		if f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != "" {
			docs[dir] = append(docs[dir], f.path)
		}
	}
	for dir := range pkgs {
		if n := len(docs[dir]); n != 1 {
			t.Errorf("%s has %d package comments %v, want one", dir, n, docs[dir])
		}
	}
}

// init and mutable package variables are hidden inputs.
func TestNoInitWork(t *testing.T) {
	for _, f := range sources(t) {
		if f.module == "examples" || f.test() {
			continue // a guest registers its operations in init: its ABI has no main
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil && !strings.Contains(f.path, "testdata") {
				t.Errorf("%s has an init function", f.path)
			}
		}
	}
}

// A test that steps aside looks green and is not; a sleep is a guess, except in a bubble of
// testing/synctest, where it moves the clock.
func TestTestsDoNotStepAside(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test() {
			continue
		}
		bubbles := bubbles(f.ast)
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch x.Name + "." + s.Sel.Name {
			case "t.Skip", "t.Skipf", "t.SkipNow", "b.Skip", "testing.Short":
				t.Errorf("%s: %s", f.set.Position(n.Pos()), x.Name+"."+s.Sel.Name)
			case "time.Sleep":
				if !strings.Contains(f.path, "synctest") && !slices.ContainsFunc(bubbles, func(b ast.Node) bool { return b.Pos() <= n.Pos() && n.End() <= b.End() }) {
					t.Errorf("%s: time.Sleep as synchronisation", f.set.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// bubbles lists the calls of synctest.Test.
func bubbles(file *ast.File) (out []ast.Node) {
	ast.Inspect(file, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			if s, ok := c.Fun.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "synctest" && s.Sel.Name == "Test" {
					out = append(out, c)
				}
			}
		}
		return true
	})
	return out
}

// A name without a word of what it means is half a name.
func TestExportedSymbolsAreDocumented(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() || f.ast.Name.Name == "main" || f.module == "test" || f.module == "examples" {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedRecv(d)) && !implementsStandard(d.Name.Name) {
					t.Errorf("%s: %s has no comment", f.set.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
						t.Errorf("%s: type %s has no comment", f.set.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

func exportedRecv(d *ast.FuncDecl) bool {
	x := d.Recv.List[0].Type
	if s, ok := x.(*ast.StarExpr); ok {
		x = s.X
	}
	if i, ok := x.(*ast.IndexExpr); ok {
		x = i.X
	}
	id, ok := x.(*ast.Ident)
	return ok && id.IsExported()
}

func implementsStandard(name string) bool {
	return slices.Contains([]string{"Error", "Unwrap", "Close", "Write", "Read", "ServeHTTP", "Len", "Less", "Swap", "Push", "Pop"}, name)
}

// go install path@version refuses a module with replacements; siblings at different versions
// would be a combination nobody tested; and one dependency has one version.
func TestModules(t *testing.T) {
	versions := map[string]map[string][]string{}
	for m := range layers() {
		p := filepath.Join(root, m, "go.mod")
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := modfile.Parse(p, b, nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.Module.Mod.Path != prefix+m {
			t.Errorf("%s is module %s", m, f.Module.Mod.Path)
		}
		for _, r := range f.Replace {
			t.Errorf("%s replaces %s", p, r.Old.Path)
		}
		for _, r := range f.Require {
			if strings.HasPrefix(r.Mod.Path, prefix) {
				if r.Mod.Version != version {
					t.Errorf("%s requires %s at %s, not at the lock-step %s", p, r.Mod.Path, r.Mod.Version, version)
				}
				continue
			}
			if versions[r.Mod.Path] == nil {
				versions[r.Mod.Path] = map[string][]string{}
			}
			versions[r.Mod.Path][r.Mod.Version] = append(versions[r.Mod.Path][r.Mod.Version], m)
		}
	}
	for dep, vs := range versions {
		if len(vs) > 1 {
			t.Errorf("%s is required at several versions: %v", dep, vs)
		}
	}
}

// What is committed speaks of Solo alone and of what is there.
func TestNothingForeignIsCommitted(t *testing.T) {
	out, err := exec.Command("git", "-C", root, "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	open := regexp.MustCompile(`\b(` + "TO" + `DO|FIX` + `ME|X` + `XX|HA` + `CK)\b`)
	paths := regexp.MustCompile(`(^|[^a-z.])/(work|root|home/[a-z]+)/[a-z.]+`)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		p := filepath.Join(root, name)
		info, err := os.Lstat(p)
		if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 || strings.HasSuffix(name, ".sum") || name == "LICENSE" {
			continue
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(string(b[:min(len(b), 8000)]), 0) {
			continue
		}
		if m := open.Find(b); m != nil {
			t.Errorf("%s has an open end: %s", name, m)
		}
		if m := paths.Find(b); m != nil {
			t.Errorf("%s names a path of one machine: %s", name, m)
		}
	}
}

// A file that holds more than one idea is where the next defect hides.
func TestFilesAreShort(t *testing.T) {
	for _, f := range sources(t) {
		if n := f.set.File(f.ast.Pos()).LineCount(); n > 600 {
			t.Errorf("%s has %d lines", f.path, n)
		}
	}
}
