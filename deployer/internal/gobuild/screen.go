package gobuild

import (
	"fmt"
	"go/parser"
	"go/scanner"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/module"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk"
)

// dataFiles are the endings of files for go:embed. The list says what may come and not what may not:
// the toolchain acts on more kinds of files than Go (an assembler's #include reads any file of this
// machine into a diagnostic), and a new one must not be let in by its novelty.
func dataFiles() []string {
	return []string{
		".txt", ".md", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".xml", ".ini", ".conf",
		".html", ".htm", ".css", ".js", ".mjs", ".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".woff", ".woff2",
		".tmpl", ".tpl", ".gohtml", ".gotmpl", ".sql", ".proto", ".pb", ".wasm", ".bin", ".dat", ".gz", ".zip", ".pem",
	}
}

// checkPath refuses a name that leads out of the source's folder, or that the toolchain would take for
// anything but Go, the module's own files or data.
func checkPath(name string) error {
	bad := func(why string) error {
		return fault.Invalid("code.files", "%q %s; want a path relative to the package folder, with slashes", name, why)
	}
	switch {
	case name == "" || len(name) > maxPath:
		return bad(fmt.Sprintf("is empty or longer than %d bytes", maxPath))
	case path.Clean(name) != name || !filepath.IsLocal(filepath.FromSlash(name)):
		return bad("leads out of the package folder or is not in its shortest form")
	case strings.ContainsAny(name, "\\:\x00") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return bad("has characters that a source path cannot have")
	}
	if err := module.CheckFilePath(name); err != nil {
		return bad("cannot be a file of a Go module")
	}
	base := path.Base(name)
	switch ext := path.Ext(base); {
	case name == "go.mod", name == "go.sum", ext == ".go":
		return nil
	case ext != "" && slices.Contains(dataFiles(), strings.ToLower(ext)):
		return nil
	}
	return fault.Invalid("code.files", "%q cannot be part of a source: only .go files, go.mod and go.sum of the root folder, and data for go:embed (%s)", name, strings.Join(dataFiles(), " ")).
		Next("leave it out; code in C or assembly is compiled to WASM elsewhere and deployed with format wasm")
}

// checkFolders refuses a name that is a file and a folder at once.
func checkFolders(files map[string][]byte) error {
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir]; ok {
				return fault.Invalid("code.files", "%q is a file, and a folder in %q", dir, name)
			}
		}
	}
	return nil
}

// checkGo refuses what only cgo may say. What cannot be read is left for the compiler to explain.
func (s *Source) checkGo() error {
	for _, name := range s.names() {
		if path.Ext(name) != ".go" {
			continue
		}
		if d := linker(name, s.files[name]); d != nil {
			return failed([]*solov1.Diagnostic{d})
		}
		if d := imported(name, s.files[name]); d != nil {
			return failed([]*solov1.Diagnostic{d})
		}
	}
	return nil
}

// withoutGuest names a file of the root folder if no file imports the guest SDK, without which no call
// can be answered.
func (s *Source) withoutGuest() (file string) {
	for _, name := range s.names() {
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, _ := parser.ParseFile(token.NewFileSet(), name, s.files[name], parser.ImportsOnly) // what cannot be read has not been compiled
		if f == nil {
			continue
		}
		for _, i := range f.Imports {
			if p, err := strconv.Unquote(i.Path.Value); err == nil && p == sdk.Module+"/guest" {
				return ""
			}
		}
		if file == "" && path.Dir(name) == "." {
			file = name
		}
	}
	return file
}

// linker finds a comment that instructs the linker as only the output of cgo may.
func linker(name string, content []byte) *solov1.Diagnostic {
	set := token.NewFileSet()
	file := set.AddFile(name, -1, len(content))
	var s scanner.Scanner
	s.Init(file, content, func(token.Position, string) {}, scanner.ScanComments)
	for {
		at, tok, text := s.Scan()
		if tok == token.EOF {
			return nil
		}
		if tok == token.COMMENT && strings.HasPrefix(text, "//go:cgo_") {
			word, _, _ := strings.Cut(strings.TrimSpace(text), " ")
			return diagnosticAt(file.PositionFor(at, false), word+" is refused: services are built without cgo")
		}
	}
}

// imported finds an import that cannot be.
func imported(name string, content []byte) *solov1.Diagnostic {
	set := token.NewFileSet()
	f, _ := parser.ParseFile(set, name, content, parser.ImportsOnly) // the compiler explains what is wrong with the rest
	if f == nil {
		return nil
	}
	for _, i := range f.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil && p == "C" {
			return diagnosticAt(set.PositionFor(i.Pos(), false), `import "C" is refused: services are built without cgo; compile C to WASM yourself and deploy the module with format wasm`)
		}
	}
	return nil
}

func diagnosticAt(p token.Position, text string) *solov1.Diagnostic {
	return &solov1.Diagnostic{File: p.Filename, Line: uint32(p.Line), Column: uint32(p.Column), Severity: "error", Message: text}
}
