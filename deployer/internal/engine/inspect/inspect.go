// Package inspect reads a WASM module before any compiler sees it. It promises a verdict without
// allocating more than a small multiple of the module's size and without panicking on any bytes: a
// module that passes is a core module for ABI solo1 or a WASI preview 1 command, imports nothing the
// host lacks, and stays within Bounds. What it cannot judge, the function bodies, the compiler does.
package inspect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
)

// Kind is how a module is run.
type Kind string

// Kinds of modules.
const (
	// Reactor lives across calls and exports solo_handle.
	Reactor Kind = "reactor"
	// Command is run once a call, from _start.
	Command Kind = "command"
)

// Bounds limit what a module may declare.
type Bounds struct {
	ModuleBytes   int    // of the whole module
	BodyBytes     int    // of one function
	Functions     int    // defined and imported
	Locals        uint64 // of one function
	Globals       int
	Tables        int
	TableElements uint64 // of all tables together, at their largest
	MemoryPages   uint64 // at start, of 64 KiB
}

// DefaultBounds fits every real program met so far; compilers' outputs stay far below.
func DefaultBounds() Bounds {
	return Bounds{
		ModuleBytes: 64 << 20, BodyBytes: 1 << 20, Functions: 200_000, Locals: 50_000,
		Globals: 100_000, Tables: 16, TableElements: 1 << 20, MemoryPages: 1 << 16,
	}
}

// Signature is a function type in one string: parameter types, colon, result types, as
// i (i32), I (i64), f (f32), F (f64), v (v128) or r (a reference).
type Signature string

// Imports tells which host functions there are, by module and name.
type Imports map[string]map[string]Signature

// Module is what is known about a module that passed.
type Module struct {
	Kind Kind
	// Binary is the module to compile: the original with its tables capped and its data merged.
	Binary []byte
	// SHA256 of the original, in hex.
	SHA256 string
	// Exports are the names of exported functions.
	Exports []string
	// Imports are the names of imported functions, as module.name.
	Imports []string
	// MemoryPages is the memory it starts with, of 64 KiB each.
	MemoryPages uint64
	// Functions counts those it defines.
	Functions int
}

// Check reads a module and returns a fault.Error for what is wrong with it.
func Check(bin []byte, host Imports, b Bounds) (m *Module, err error) {
	if len(bin) > b.ModuleBytes {
		return nil, limit("the module is %d bytes; the bound is %d", len(bin), b.ModuleBytes)
	}
	if err := header(bin); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			me, ok := r.(malformed)
			if !ok {
				panic(r)
			}
			m, err = nil, invalid("the module is malformed or truncated: %s", string(me))
		}
	}()
	sum := sha256.Sum256(bin)
	p := &parser{bounds: b, host: host, mod: &Module{SHA256: hex.EncodeToString(sum[:])}}
	if err := p.sections(bin); err != nil {
		return nil, err
	}
	if err := p.judge(); err != nil {
		return nil, err
	}
	return p.mod, nil
}

// header tells apart what people send instead of a core module.
func header(bin []byte) error {
	const magic, version, component = "\x00asm", "\x01\x00\x00\x00", "\x0d\x00\x01\x00"
	switch {
	case len(bin) == 0:
		return invalid("the module is empty")
	case strings.HasPrefix(string(bin[:min(4, len(bin))]), "\x7fELF"):
		return invalid("this is an ELF executable, no WASM module").Next("deploy it with format binary")
	case len(bin) < 8 && strings.HasPrefix(magic+version, string(bin)):
		return invalid("the module is truncated: %d bytes, and the header alone has 8", len(bin))
	case len(bin) < 8 || string(bin[:4]) != magic:
		return invalid("this is no WASM module: it does not begin with \\0asm").
			Next("build with GOOS=wasip1 GOARCH=wasm -buildmode=c-shared, or another compiler's wasm32 target")
	case string(bin[4:8]) == component:
		return invalid("this is a WASM component, not a core module").
			Next("build a core module, e.g. with target wasm32-wasip1 or wasm32-unknown-unknown")
	case string(bin[4:8]) != version:
		return invalid("this is WASM version % x; version 1 is wanted", bin[4:8])
	}
	return nil
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(codes.InvalidArgument, fault.ReasonModuleInvalid, format, args...)
}

func limit(format string, args ...any) *fault.Error {
	return fault.New(codes.InvalidArgument, fault.ReasonModuleLimit, format, args...)
}

// malformed is thrown by the reader and caught in Check alone.
type malformed string

func bad(format string, args ...any) { panic(malformed(fmt.Sprintf(format, args...))) }
