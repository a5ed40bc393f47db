// Package elfcheck tells whether bytes are a program that this machine can run alone: an ELF
// executable for its processor, statically linked. It reads headers only and trusts nothing in
// them; a file that lies about itself is refused, never a crash.
package elfcheck

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"runtime"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
)

// machine is the name that ELF has for an architecture of Go.
func machine(arch string) (elf.Machine, elf.Class, bool) {
	switch arch {
	case "amd64":
		return elf.EM_X86_64, elf.ELFCLASS64, true
	case "arm64":
		return elf.EM_AARCH64, elf.ELFCLASS64, true
	case "386":
		return elf.EM_386, elf.ELFCLASS32, true
	case "arm":
		return elf.EM_ARM, elf.ELFCLASS32, true
	case "riscv64":
		return elf.EM_RISCV, elf.ELFCLASS64, true
	case "ppc64le", "ppc64":
		return elf.EM_PPC64, elf.ELFCLASS64, true
	case "s390x":
		return elf.EM_S390, elf.ELFCLASS64, true
	}
	return 0, 0, false
}

// Check returns nil for a static executable of this machine, else a fault BINARY_INVALID that says
// what the bytes are instead. size is the length of r.
func Check(r io.ReaderAt, size int64) (err error) {
	defer func() {
		if p := recover(); p != nil { // debug/elf does not promise to survive hostile input
			err = invalid("its headers are damaged")
		}
	}()
	head := make([]byte, min(size, 64))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return fault.Internal(err, "the executable cannot be read")
	}
	switch {
	case len(head) == 0:
		return invalid("it is empty")
	case bytes.HasPrefix(head, []byte("#!")):
		return invalid("it is a script; Solo runs static executables, so compile it or wrap it in one")
	case bytes.HasPrefix(head, []byte("\x00asm")):
		return invalid("it is a WASM module; set format to wasm")
	case bytes.HasPrefix(head, []byte("MZ")):
		return invalid("it is a Windows program; build it for linux/%s", runtime.GOARCH)
	case !bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return invalid("it is no ELF executable; build it with CGO_ENABLED=0 GOOS=linux GOARCH=%s", runtime.GOARCH)
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return invalid("its ELF headers are damaged or cut off (%v)", err)
	}
	defer f.Close()
	want, class, known := machine(runtime.GOARCH)
	if !known || f.Machine != want || f.Class != class {
		return invalid("it is built for %s, this machine is %s", f.Machine, runtime.GOARCH)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return invalid("it is an ELF file of type %s, not an executable", f.Type)
	}
	if f.Entry == 0 {
		return invalid("it has no entry point: a library is no program")
	}
	load := false
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_INTERP:
			return invalid("it is dynamically linked; build it statically (Go: CGO_ENABLED=0, C: -static, Rust: a musl target)")
		case elf.PT_LOAD:
			load = true
			if p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off {
				return invalid("it is cut off: a segment ends behind the file's %d bytes", size)
			}
		}
	}
	if !load {
		return invalid("it has nothing to load")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fault.New(codes.InvalidArgument, fault.ReasonBinaryInvalid, "code: the bytes are no static executable for linux/%s: %s", runtime.GOARCH, fmt.Sprintf(format, args...)).
		AddField("code", "a static ELF executable for linux/%s", runtime.GOARCH)
}
