package inspect

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// Section ids of the binary format.
const (
	secCustom, secType, secImport, secFunction, secTable, secMemory, secGlobal = 0, 1, 2, 3, 4, 5, 6
	secExport, secStart, secElement, secCode, secData, secDataCount, secTag    = 7, 8, 9, 10, 11, 12, 13
)

// start is the export that makes a module a WASI command.
const start = "_start"

// wasiModule is the import module of WASI preview 1.
const wasiModule = "wasi_snapshot_preview1"

// parser gathers what judge decides by.
type parser struct {
	bounds   Bounds
	host     Imports
	mod      *Module
	types    []Signature
	funcs    []Signature // imported first, then defined
	imported int
	memories int
	exports  map[string]int // exported functions by index
	unknown  []string       // imports that the host lacks
	bodies   int
}

// sections reads each section and builds the binary with capped tables and merged data.
func (p *parser) sections(bin []byte) error {
	out := slices.Clone(bin[:8])
	r := &reader{b: bin[8:]}
	last := byte(0)
	counted := false // the number of data segments stands elsewhere too
	for len(r.b) > 0 {
		id := r.byte()
		n := r.u32()
		if n > uint64(len(r.b)) {
			bad("section %d says %d bytes, %d are left", id, n, len(r.b))
		}
		body := r.take(int(n))
		if id != secCustom {
			if order(id) <= order(last) {
				bad("section %d stands out of order", id)
			}
			last = id
		}
		if id == secCustom && !kept(body) {
			continue
		}
		if id == secTable {
			var err error
			if body, err = p.tables(body); err != nil {
				return err
			}
		} else if err := p.section(id, &reader{b: body}); err != nil {
			return err
		}
		switch id {
		case secDataCount:
			counted = true
		case secData:
			if !counted {
				body = mergeData(body)
			}
		}
		out = append(out, id)
		out = uleb(out, uint64(len(body)))
		out = append(out, body...)
	}
	p.mod.Binary = out
	return nil
}

// kept tells which custom sections matter: names for traces, not debug tables, whose parsing costs
// time and memory.
func kept(body []byte) bool {
	r := &reader{b: body}
	return r.name() == "name"
}

// order is where a section must stand.
func order(id byte) int {
	switch id {
	case secTag: // between memory and global
		return 2*secMemory + 1
	case secDataCount: // before code
		return 2*secElement + 1
	}
	return 2 * int(id)
}

func (p *parser) section(id byte, r *reader) error {
	switch id {
	case secType:
		return p.typeSection(r)
	case secImport:
		return p.importSection(r)
	case secFunction:
		n := r.count()
		if n+len(p.funcs) > p.bounds.Functions {
			return limit("the module has %d functions; the bound is %d", n+len(p.funcs), p.bounds.Functions)
		}
		for range n {
			p.funcs = append(p.funcs, p.typeOf(r.u32()))
		}
		p.mod.Functions = n
	case secMemory:
		return p.memorySection(r)
	case secGlobal:
		n := r.count()
		if n > p.bounds.Globals {
			return limit("the module has %d globals; the bound is %d", n, p.bounds.Globals)
		}
	case secExport:
		p.exports = map[string]int{}
		for range r.count() {
			name, kind, index := r.name(), r.byte(), r.u32()
			if kind != 0 {
				continue
			}
			if index >= uint64(len(p.funcs)) {
				bad("export %q names function %d of %d", name, index, len(p.funcs))
			}
			p.exports[name] = int(index)
			p.mod.Exports = append(p.mod.Exports, name)
		}
	case secCode:
		return p.codeSection(r)
	case secElement, secData, secDataCount, secStart, secTag, secCustom:
		// The compiler checks their contents; a count beyond the section is what could hurt it.
		if id == secElement || id == secData {
			r.count()
		}
	default:
		bad("section id %d is unknown", id)
	}
	return nil
}

func (p *parser) typeSection(r *reader) error {
	for range r.count() {
		if form := r.byte(); form != 0x60 {
			return invalid("type form %#x: only function types are supported", form)
		}
		var sig []byte
		for range r.count() {
			sig = append(sig, valueType(r.byte()))
		}
		sig = append(sig, ':')
		for range r.count() {
			sig = append(sig, valueType(r.byte()))
		}
		p.types = append(p.types, Signature(sig))
	}
	return nil
}

func valueType(b byte) byte {
	switch b {
	case 0x7f:
		return 'i'
	case 0x7e:
		return 'I'
	case 0x7d:
		return 'f'
	case 0x7c:
		return 'F'
	case 0x7b:
		return 'v'
	case 0x70, 0x6f:
		return 'r'
	}
	bad("value type %#x is unknown", b)
	return 0
}

func (p *parser) typeOf(index uint64) Signature {
	if index >= uint64(len(p.types)) {
		bad("type %d of %d", index, len(p.types))
	}
	return p.types[index]
}

func (p *parser) importSection(r *reader) error {
	for range r.count() {
		module, name := r.name(), r.name()
		switch kind := r.byte(); kind {
		case 0:
			sig := p.typeOf(r.u32())
			p.funcs = append(p.funcs, sig)
			p.imported++
			p.mod.Imports = append(p.mod.Imports, module+"."+name)
			want, ok := p.host[module][name]
			switch {
			case !ok:
				p.unknown = append(p.unknown, module+"."+name)
			case want != sig:
				p.unknown = append(p.unknown, module+"."+name+" with type "+string(sig)+" (the host's has "+string(want)+")")
			}
		case 1:
			r.byte()
			r.limits()
			p.unknown = append(p.unknown, module+"."+name+" (a table)")
		case 2:
			r.limits()
			p.unknown = append(p.unknown, module+"."+name+" (a memory; a guest owns its own)")
		case 3:
			r.take(2)
			p.unknown = append(p.unknown, module+"."+name+" (a global)")
		default:
			bad("import kind %d is unknown", kind)
		}
	}
	return nil
}

// tables caps every table, so that all together stay within the bound: table.grow answers -1 beyond.
func (p *parser) tables(body []byte) ([]byte, error) {
	type table struct {
		kind    byte
		lo, hi  uint64
		bounded bool
	}
	r := &reader{b: body}
	n := r.count()
	if n > p.bounds.Tables {
		return nil, limit("the module has %d tables; the bound is %d", n, p.bounds.Tables)
	}
	list := make([]table, n)
	var sum uint64
	for i := range list {
		t := &list[i]
		t.kind = r.byte()
		if t.kind != 0x70 && t.kind != 0x6f {
			bad("table %d has element type %#x", i, t.kind)
		}
		_, t.lo, t.hi, t.bounded = r.limits()
		sum += t.lo
	}
	if sum > p.bounds.TableElements {
		return nil, limit("the module's tables begin with %d elements; the bound is %d", sum, p.bounds.TableElements)
	}
	out := uleb(nil, uint64(n))
	for _, t := range list {
		most := t.lo + (p.bounds.TableElements-sum)/uint64(n)
		if !t.bounded || t.hi > most {
			t.hi = most
		}
		out = append(out, t.kind, 1)
		out = uleb(uleb(out, t.lo), t.hi)
	}
	return out, nil
}

func (p *parser) memorySection(r *reader) error {
	p.memories = r.count()
	if p.memories > 1 {
		return limit("the module has %d memories; the bound is 1", p.memories)
	}
	for range p.memories {
		flags, lo, _, _ := r.limits()
		if flags > 1 {
			return invalid("the module's memory is shared or 64-bit (flags %#x), which is not supported", flags)
		}
		if lo > p.bounds.MemoryPages {
			return fault.New(codes.InvalidArgument, fault.ReasonMemoryLimit,
				"the module starts with %d KiB of memory; its limit is %d KiB", lo*64, p.bounds.MemoryPages*64).
				AddField("manifest.limits.memory_bytes", "must be at least %d", lo<<16)
		}
		p.mod.MemoryPages = lo
	}
	return nil
}

func (p *parser) codeSection(r *reader) error {
	p.bodies = r.count()
	for i := range p.bodies {
		size := r.u32()
		if size > uint64(p.bounds.BodyBytes) {
			return limit("function %d has %d bytes; the bound is %d", i, size, p.bounds.BodyBytes)
		}
		body := &reader{b: r.take(int(size))}
		var locals uint64
		for range body.count() {
			locals += body.u32()
			body.byte()
			if locals > p.bounds.Locals {
				return limit("function %d has more than %d locals", i, p.bounds.Locals)
			}
		}
	}
	return nil
}

// judge decides what the module is for.
func (p *parser) judge() error {
	if p.bodies != p.mod.Functions {
		bad("%d functions with %d bodies", p.mod.Functions, p.bodies)
	}
	if len(p.unknown) > 0 {
		slices.Sort(p.unknown)
		list := strings.Join(p.unknown[:min(20, len(p.unknown))], ", ")
		return fault.New(codes.InvalidArgument, fault.ReasonModuleImportUnknown,
			"the module imports what Solo does not offer: %s", list).
			With("imports", list).
			Next("Solo offers the functions of module %q (ABI solo1) and of %s", abi.Module, wasiModule)
	}
	if err := p.export(abi.InitExport, ":", false); err != nil {
		return err
	}
	if _, ok := p.exports[abi.HandleExport]; ok {
		p.mod.Kind = Reactor
		if p.memories == 0 {
			return fault.New(codes.InvalidArgument, fault.ReasonModuleExportMissing, "the module has no memory, which ABI solo1 needs")
		}
		return p.export(abi.HandleExport, "iii:i", true)
	}
	if _, ok := p.exports[start]; ok {
		p.mod.Kind = Command
		return p.export(start, ":", true)
	}
	return fault.New(codes.InvalidArgument, fault.ReasonModuleExportMissing,
		"the module exports neither %s (ABI solo1) nor %s (WASI command)", abi.HandleExport, start).
		With("missing", abi.HandleExport).
		Next("in Go, import sdk/guest and build with -buildmode=c-shared; elsewhere, export %s(u32, u32, u32) -> u32", abi.HandleExport)
}

// export checks the type of an exported function.
func (p *parser) export(name string, want Signature, needed bool) error {
	i, ok := p.exports[name]
	if !ok && !needed {
		return nil
	}
	if got := p.funcs[i]; got != want {
		return fault.New(codes.InvalidArgument, fault.ReasonModuleExportMissing,
			"the module's export %s has type %s; %s is wanted (i is i32, then a colon, then results)", name, got, want).
			With("missing", name)
	}
	return nil
}
