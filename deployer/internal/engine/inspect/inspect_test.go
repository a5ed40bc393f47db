package inspect_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/proto/fault"
)

func host() inspect.Imports {
	return inspect.Imports{"solo": {"input": "ii:", "output": "iii:"}}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	good := enginetest.Echo()
	b := inspect.DefaultBounds()
	small := b
	small.ModuleBytes = 20
	body := b
	body.BodyBytes = 2
	mem := b
	mem.MemoryPages = 0
	funcs := b
	funcs.Functions = 1
	locals := enginetest.Module{Handle: []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0x41, 0, 0x0b}}.Encode()
	for name, c := range map[string]struct {
		bin    []byte
		bounds inspect.Bounds
		reason string
		text   string
	}{
		"empty":             {nil, b, fault.ReasonModuleInvalid, "empty"},
		"text":              {[]byte("package main\n"), b, fault.ReasonModuleInvalid, "no WASM module"},
		"elf":               {[]byte("\x7fELF\x02\x01\x01\x00\x00"), b, fault.ReasonModuleInvalid, "ELF"},
		"cut header":        {good[:6], b, fault.ReasonModuleInvalid, "truncated"},
		"cut":               {good[:len(good)-5], b, fault.ReasonModuleInvalid, "truncated"},
		"component":         {[]byte("\x00asm\x0d\x00\x01\x00"), b, fault.ReasonModuleInvalid, "component"},
		"version":           {[]byte("\x00asm\x02\x00\x00\x00"), b, fault.ReasonModuleInvalid, "version"},
		"no export":         {enginetest.Module{}.Encode(), b, fault.ReasonModuleExportMissing, "solo_handle"},
		"wrong type":        {enginetest.Module{Start: []byte{0, 0x0b}, StartExport: "solo_handle"}.Encode(), b, fault.ReasonModuleExportMissing, "has type :"},
		"start type":        {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, HandleExport: "_start"}.Encode(), b, fault.ReasonModuleExportMissing, "iii:i"},
		"unknown import":    {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Imports: []string{"env.abort"}}.Encode(), b, fault.ReasonModuleImportUnknown, "env.abort"},
		"wrong import type": {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Imports: []string{"solo.input"}}.Encode(), b, fault.ReasonModuleImportUnknown, "type :"},
		"too big":           {good, small, fault.ReasonModuleLimit, "bytes"},
		"big body":          {good, body, fault.ReasonModuleLimit, "function 0"},
		"big memory":        {good, mem, fault.ReasonMemoryLimit, "64 KiB"},
		"many functions":    {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Start: []byte{0, 0x0b}}.Encode(), funcs, fault.ReasonModuleLimit, "functions"},
		"many locals":       {locals, b, fault.ReasonModuleLimit, "locals"},
		"huge table":        {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Table: []byte{1, 0x70, 0, 0xff, 0xff, 0xff, 0x7f}}.Encode(), b, fault.ReasonModuleLimit, "tables"},
		"two memories":      {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Memory: []byte{2, 0, 1, 0, 1}}.Encode(), b, fault.ReasonModuleLimit, "memories"},
		"shared memory":     {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Memory: []byte{1, 3, 1, 1}}.Encode(), b, fault.ReasonModuleInvalid, "shared"},
		"no memory":         {enginetest.Module{Handle: []byte{0, 0x41, 0, 0x0b}, Memory: []byte{0}}.Encode(), b, fault.ReasonModuleExportMissing, "no memory"},
		"endless count":     {append([]byte("\x00asm\x01\x00\x00\x00\x01\x05"), 0xff, 0xff, 0xff, 0xff, 0x0f), b, fault.ReasonModuleInvalid, "entries"},
		"endless integer":   {append([]byte("\x00asm\x01\x00\x00\x00\x01\x06"), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), b, fault.ReasonModuleInvalid, "32 bits"},
		"unknown section":   {append([]byte("\x00asm\x01\x00\x00\x00"), 99, 0), b, fault.ReasonModuleInvalid, "section id"},
		"order":             {append([]byte("\x00asm\x01\x00\x00\x00"), 3, 1, 0, 1, 1, 0), b, fault.ReasonModuleInvalid, "order"},
	} {
		m, err := inspect.Check(c.bin, host(), c.bounds)
		if m != nil || !fault.Is(err, c.reason) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %s with %q", name, err, c.reason, c.text)
		}
	}
}

func TestCheckCapsTables(t *testing.T) {
	m, err := inspect.Check(enginetest.Module{
		Handle: []byte{0, 0x41, 0, 0x0b},
		Table:  []byte{2, 0x70, 0, 5, 0x6f, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f},
	}.Encode(), host(), inspect.DefaultBounds())
	if err != nil {
		t.Fatal(err)
	}
	again, err := inspect.Check(m.Binary, host(), inspect.DefaultBounds())
	if err != nil || string(again.Binary) != string(m.Binary) {
		t.Errorf("capping is not stable: %v", err)
	}
	if m.Kind != inspect.Reactor || m.MemoryPages != 1 || m.Functions != 1 || m.Exports[0] != "solo_handle" {
		t.Errorf("got %+v", m)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(enginetest.Echo())
	f.Add(enginetest.Module{Start: []byte{0, 0x0b}, StartExport: "_start", Table: []byte{1, 0x70, 0, 5}}.Encode())
	f.Fuzz(func(t *testing.T, bin []byte) {
		m, err := inspect.Check(bin, host(), inspect.DefaultBounds())
		if err != nil {
			if _, ok := errors.AsType[*fault.Error](err); !ok {
				t.Fatalf("no fault: %v", err)
			}
			return
		}
		if _, err := inspect.Check(m.Binary, host(), inspect.DefaultBounds()); err != nil {
			t.Fatalf("the rewritten module is refused: %v", err)
		}
	})
}
