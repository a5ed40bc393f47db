// Package source turns what a person points at, a folder of Go or a file, into the code of a
// deploy: it tells formats apart and packs folders, within the bounds of the contract.
package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Bounds of a packed folder, as the contract has them.
const (
	MaxFiles = 512
	MaxBytes = 4 << 20
	maxPath  = 200
)

// Guess tells the format of what is at path: a folder is Go, a file by its first bytes.
func Guess(path string) (solov1.Format, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if st.IsDir() {
		return solov1.Format_FORMAT_GO_SOURCE, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := f.Read(head) // a shorter file matches nothing
	switch head = head[:n]; {
	case bytes.Equal(head, []byte("\x00asm")):
		return solov1.Format_FORMAT_WASM, nil
	case bytes.Equal(head, []byte("\x7fELF")):
		return solov1.Format_FORMAT_BINARY, nil
	case strings.HasSuffix(path, ".go"):
		return 0, fmt.Errorf("%s is one Go file: name the folder that it is in", path)
	}
	return 0, fmt.Errorf("%s is neither a folder of Go, a WASM module nor an ELF executable", path)
}

// Pack reads the Go package in a folder: its .go files, go.mod and go.sum, and those of its
// subfolders. Tests, hidden files, testdata, vendor and other modules inside stay out.
func Pack(dir string) (*solov1.Files, error) {
	out := &solov1.Files{Files: map[string][]byte{}}
	var total int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() {
			if path != dir && (hidden(name) || name == "testdata" || name == "vendor" || isModule(path)) {
				return filepath.SkipDir
			}
			return nil
		}
		if hidden(name) || !wanted(name) {
			return nil
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file: copy it there, links are not followed", path)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		st, err := e.Info()
		if err != nil {
			return err
		}
		switch total += st.Size(); {
		case len(out.Files) == MaxFiles:
			return fmt.Errorf("%s holds more than %d files", dir, MaxFiles)
		case total > MaxBytes:
			return fmt.Errorf("%s holds more than %d bytes of source", dir, MaxBytes)
		case len(rel) > maxPath:
			return fmt.Errorf("%s: the path has more than %d characters", rel, maxPath)
		}
		b, err := os.ReadFile(path)
		out.Files[rel] = b
		return err
	})
	if err != nil {
		return nil, err
	}
	for name := range out.Files {
		if strings.HasSuffix(name, ".go") && !strings.Contains(name, "/") {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%s holds no Go package: no .go file that is not a test", dir)
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") }

func wanted(name string) bool {
	return name == "go.mod" || name == "go.sum" || strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return !errors.Is(err, fs.ErrNotExist)
}
