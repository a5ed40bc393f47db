package native

import (
	"bytes"
	"debug/elf"
	"io"
	"runtime"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
)

// Check reads an executable of a size and returns a fault.Error for what keeps it from running here:
// it is no ELF file, truncated, for another machine, or not static.
func Check(r io.ReaderAt, size int64) error {
	head := make([]byte, 4)
	n, _ := r.ReadAt(head, 0)
	head = head[:n]
	switch {
	case n == 0:
		return invalid("the executable is empty")
	case bytes.HasPrefix(head, []byte("#!")):
		return invalid("this is a script; a static executable is wanted").
			Next("build a static executable, e.g. in Go with CGO_ENABLED=0")
	case bytes.Equal(head, []byte("\x00asm")):
		return invalid("this is a WASM module, no executable").Next("deploy it with format wasm")
	case !bytes.Equal(head, []byte(elf.ELFMAG)):
		return invalid("this is no executable: it does not begin with \\x7fELF")
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return invalid("the executable is damaged or truncated: %v", err)
	}
	defer f.Close()
	if want := machine(); f.Class != elf.ELFCLASS64 || f.Machine != want {
		return invalid("the executable is for %s (%s); this machine is %s", f.Machine, f.Class, want)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return invalid("this is an ELF file of type %s, no executable", f.Type)
	}
	loads := 0
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return invalid("the executable is dynamically linked; a static one is wanted").
				Next("build with CGO_ENABLED=0 in Go, -static in C, target *-linux-musl in Rust")
		}
		if p.Type != elf.PT_LOAD {
			continue
		}
		loads++
		if p.Off+p.Filesz < p.Off || p.Off+p.Filesz > uint64(size) {
			return invalid("the executable is truncated: a segment ends at byte %d of %d", p.Off+p.Filesz, size)
		}
	}
	if loads == 0 || f.Entry == 0 {
		return invalid("the ELF file has nothing to run: %d segments to load, entry at %#x", loads, f.Entry)
	}
	return nil
}

func machine() elf.Machine {
	switch runtime.GOARCH {
	case "arm64":
		return elf.EM_AARCH64
	case "riscv64":
		return elf.EM_RISCV
	}
	return elf.EM_X86_64
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(codes.InvalidArgument, fault.ReasonBinaryInvalid, format, args...)
}
