// Package enginetest builds guests for tests: tiny modules assembled by hand, hostile ones among
// them, and Go programs compiled with the toolchain and the SDK of this checkout.
package enginetest

import (
	"strings"
)

// Module is a hand-assembled module. Bodies are locals and code, with the end opcode.
type Module struct {
	Imports      []string // module.name; see Types for their types
	Types        map[string]byte
	Handle       []byte // body of (i32, i32, i32) -> i32
	HandleExport string // default solo_handle
	Start        []byte // body of () -> ()
	StartExport  string // default _start
	Table        []byte // raw table section
	Memory       []byte // raw memory section; nil is one page, growable
	Globals      []byte // raw global section
}

// Type indices of every assembled module.
const (
	TypeVoid   = 0 // () -> ()
	TypeHandle = 1 // (i32, i32, i32) -> i32
	TypeInput  = 2 // (i32, i32) -> ()
	TypeOutput = 3 // (i32, i32, i32) -> ()
	TypeCall   = 4 // (i32, i32, i32, i32) -> i32
)

// Encode assembles the module.
func (m Module) Encode() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	sec := func(id byte, body []byte) {
		out = append(append(append(out, id), leb(len(body))...), body...)
	}
	sec(1, []byte{
		5, 0x60, 0, 0, 0x60, 3, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 0,
		0x60, 3, 0x7f, 0x7f, 0x7f, 0, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f,
	})
	if len(m.Imports) > 0 {
		b := leb(len(m.Imports))
		for _, imp := range m.Imports {
			mod, name, _ := strings.Cut(imp, ".")
			b = append(append(b, str(mod)...), str(name)...)
			b = append(b, 0, m.Types[imp])
		}
		sec(2, b)
	}
	var types, exports, codes []byte
	n, e := 0, 0
	add := func(typ byte, body []byte, export string) {
		if body == nil {
			return
		}
		types = append(types, typ)
		exports = append(append(append(exports, str(export)...), 0), leb(len(m.Imports)+n)...)
		codes = append(append(codes, leb(len(body))...), body...)
		n++
		e++
	}
	add(TypeHandle, m.Handle, or(m.HandleExport, "solo_handle"))
	add(TypeVoid, m.Start, or(m.StartExport, "_start"))
	sec(3, append(leb(n), types...))
	if m.Table != nil {
		sec(4, m.Table)
	}
	if m.Memory == nil {
		m.Memory = []byte{1, 0, 1}
	}
	sec(5, m.Memory)
	if m.Globals != nil {
		sec(6, m.Globals)
	}
	if len(m.Memory) > 1 {
		exports = append(append(exports, str("memory")...), 2, 0)
		e++
	}
	sec(7, append(leb(e), exports...))
	sec(10, append(leb(n), codes...))
	return out
}

// Echo answers every call with its payload.
func Echo() []byte {
	return Module{
		Imports: []string{"solo.input", "solo.output"},
		Types:   map[string]byte{"solo.input": TypeInput, "solo.output": TypeOutput},
		Handle: []byte{
			0,
			0x41, 1, 0x41, 0x80, 0x08, 0x10, 0, // input(1, 1024)
			0x41, 0, 0x41, 0x80, 0x08, 0x20, 2, 0x10, 1, // output(0, 1024, payloadlen)
			0x41, 0, 0x0b,
		},
	}.Encode()
}

// Spin never returns from a call.
func Spin() []byte {
	return Module{Handle: []byte{0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x41, 0, 0x0b}}.Encode()
}

// Trap executes unreachable.
func Trap() []byte { return Module{Handle: []byte{0, 0x00, 0x0b}}.Encode() }

// Recurse overflows its stack.
func Recurse() []byte {
	return Module{Handle: []byte{0, 0x41, 0, 0x41, 0, 0x41, 0, 0x10, 0, 0x0b}}.Encode()
}

// GrowMemory grows its memory by a page until refused, then traps.
func GrowMemory() []byte {
	return Module{Handle: []byte{
		0, 0x03, 0x40, 0x41, 1, 0x40, 0, 0x41, 0x7f, 0x47, 0x0d, 0, 0x0b, 0x00, 0x0b,
	}}.Encode()
}

// GrowTable grows a table by a million elements until refused, then answers.
func GrowTable() []byte {
	return Module{
		Table: []byte{1, 0x6f, 0, 1},
		Handle: []byte{
			0, 0x03, 0x40, 0xd0, 0x6f, 0x41, 0xc0, 0x84, 0x3d, 0xfc, 15, 0, 0x41, 0x7f, 0x47, 0x0d, 0, 0x0b, 0x41, 0, 0x0b,
		},
	}.Encode()
}

// OutOfRange hands the host a pointer beyond its memory.
func OutOfRange() []byte {
	return Module{
		Imports: []string{"solo.output"},
		Types:   map[string]byte{"solo.output": TypeOutput},
		Handle:  []byte{0, 0x41, 0, 0x41, 0x7f, 0x41, 0x7f, 0x10, 0, 0x41, 0, 0x0b},
	}.Encode()
}

func leb(v int) []byte {
	var out []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}

func str(s string) []byte { return append(leb(len(s)), s...) }

func or(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
