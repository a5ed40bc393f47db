package gobuild

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk"
)

// Bounds of a source.
const (
	MaxFiles = 512
	MaxBytes = 4 << 20
	maxPath  = 200
)

// Source is a Go package: contents by clean, relative, slash-separated path.
type Source struct {
	files map[string][]byte
	// module is its path, from go.mod; goVersion is empty when it names none.
	module, goVersion string
}

// FromFiles checks a set of files. The fault names the file that cannot be.
func FromFiles(files map[string][]byte) (*Source, error) {
	if len(files) > MaxFiles {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "code.files: %d files; at most %d", len(files), MaxFiles).AddField("code.files", "at most %d", MaxFiles)
	}
	total := 0
	for name, b := range files {
		if err := checkPath(name); err != nil {
			return nil, err
		}
		if total += len(b); total > MaxBytes {
			return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "code.files: more than %d MiB of source", MaxBytes>>20).AddField("code.files", "at most %d MiB in all", MaxBytes>>20)
		}
	}
	if err := checkFolders(files); err != nil {
		return nil, err
	}
	s := &Source{files: files, module: "service"}
	for _, check := range []func() error{s.readMod, s.checkGo, s.checkMain} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// FromTar reads an archive of source files. Anything but regular files and folders is refused.
func FromTar(b []byte) (*Source, error) {
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(b))
	total := int64(0)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.Invalid("code.archive", "not a tar archive of source files (%v); send code.files, or a plain uncompressed tar", err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg:
		default:
			return nil, fault.Invalid("code.archive", "%q is no regular file; links and devices are refused", h.Name)
		}
		if total += h.Size; total > MaxBytes || len(files) > MaxFiles {
			return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "code.archive: more than %d MiB or %d files of source", MaxBytes>>20, MaxFiles).AddField("code.archive", "at most %d MiB and %d files", MaxBytes>>20, MaxFiles)
		}
		content, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
		if err != nil {
			return nil, fault.Invalid("code.archive", "%q is cut off: %v", h.Name, err)
		}
		files[name] = content
	}
	return FromFiles(files)
}

// Tar is the source as an archive; equal sources give equal bytes.
func (s *Source) Tar() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range s.names() {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(s.files[name])), Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := w.Write(s.files[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func (s *Source) names() []string { return slices.Sorted(maps.Keys(s.files)) }

// digest covers every name and content.
func (s *Source) digest() string {
	h := sha256.New()
	for _, name := range s.names() {
		fmt.Fprintf(h, "%d %s %d\n", len(name), name, len(s.files[name]))
		h.Write(s.files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// readMod takes what may stand in the source's own go.mod.
func (s *Source) readMod() error {
	b, ok := s.files["go.mod"]
	if !ok {
		return nil
	}
	f, err := modfile.Parse("go.mod", b, nil)
	if err != nil {
		return failed([]*solov1.Diagnostic{{File: "go.mod", Message: err.Error(), Severity: "error"}})
	}
	var other []string
	for _, r := range f.Require {
		if r.Mod.Path != sdk.Module {
			other = append(other, r.Mod.Path)
		}
	}
	switch {
	case len(other) > 0:
		return fault.Invalid("code.files", "go.mod requires %s, but services are built without a network, from the standard library and %s alone; copy what you need into the package folder", strings.Join(other, ", "), sdk.Module).
			Next("remove the requirement, or compile to WASM yourself and deploy the module with format wasm")
	case f.Toolchain != nil, len(f.Godebug) > 0, len(f.Tool) > 0, len(f.Ignore) > 0, len(f.Exclude) > 0, len(f.Retract) > 0:
		return fault.Invalid("code.files", "go.mod may have module, go and a require of %s, nothing else", sdk.Module)
	}
	for _, r := range f.Replace {
		if r.Old.Path != sdk.Module {
			return fault.Invalid("code.files", "go.mod replaces %s; only the standard library and %s can be imported", r.Old.Path, sdk.Module)
		}
	}
	if f.Module != nil {
		s.module = f.Module.Mod.Path
	}
	if s.module == sdk.Module || s.module == "std" || s.module == "cmd" || module.CheckImportPath(s.module) != nil {
		return fault.Invalid("code.files", "go.mod: %q cannot be this module's path", s.module)
	}
	if f.Go != nil {
		s.goVersion = f.Go.Version
	}
	return nil
}

// checkMain finds what the compiler would explain badly: a root folder without package main.
func (s *Source) checkMain() error {
	found := false
	for _, name := range s.names() {
		if path.Dir(name) != "." || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		found = true
		f, err := parser.ParseFile(token.NewFileSet(), name, s.files[name], parser.PackageClauseOnly)
		if err == nil && f.Name.Name != "main" {
			return failed([]*solov1.Diagnostic{{
				File: name, Line: 1, Column: 1, Severity: "error",
				Message: fmt.Sprintf("package %s cannot be a service; its root folder must be package main", f.Name.Name),
			}})
		}
	}
	if !found {
		return fault.Invalid("code.files", "there is no Go file in the root folder of the source")
	}
	return nil
}
