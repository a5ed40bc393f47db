package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// instanceKey finds the instance in the context of a host function.
type instanceKey struct{}

func current(ctx context.Context) *Instance {
	in, _ := ctx.Value(instanceKey{}).(*Instance)
	return in
}

// errRange is thrown into a guest that names bytes it does not have.
var errRange = errors.New("a pointer outside the guest's memory was handed to the host")

// soloModule is the import module of ABI solo1. Arguments are u32 in the low half of each word; what
// stands in the high half is garbage.
func soloModule(rt wazero.Runtime) wazero.HostModuleBuilder {
	const i32, i64 = api.ValueTypeI32, api.ValueTypeI64
	b := rt.NewHostModuleBuilder(abi.Module)
	add := func(name string, f api.GoModuleFunc, params, results []api.ValueType) {
		b.NewFunctionBuilder().WithGoModuleFunction(f, params, results).Export(name)
	}
	add("input", hostInput, []api.ValueType{i32, i32}, nil)
	add("output", hostOutput, []api.ValueType{i32, i32, i32}, nil)
	add("call", hostCall, []api.ValueType{i32, i32, i32, i32}, []api.ValueType{i32})
	add("log", hostLog, []api.ValueType{i32, i32, i32}, nil)
	add("now", hostNow, nil, []api.ValueType{i64})
	return b
}

func hostInput(ctx context.Context, m api.Module, s []uint64) {
	in := current(ctx)
	var src []byte
	switch uint32(s[0]) {
	case abi.InputOp:
		src = in.op
	case abi.InputPayload:
		src = in.payload
	case abi.InputResult:
		src = in.result
	}
	if !m.Memory().Write(uint32(s[1]), src) {
		panic(errRange)
	}
}

func hostOutput(ctx context.Context, m api.Module, s []uint64) {
	in := current(ctx)
	p := read(m, s[1], s[2])
	in.status, in.replied = uint32(s[0]), true
	if len(p) > abi.MaxPayload {
		in.tooLarge, in.reply = len(p), nil
		return
	}
	in.reply = append([]byte(nil), p...)
}

func hostCall(ctx context.Context, m api.Module, s []uint64) {
	in := current(ctx)
	op, payload := read(m, s[0], s[1]), read(m, s[2], s[3])
	out, err := in.ask(ctx, op, payload)
	if err != nil {
		f := fault.From(err)
		in.result = (&abi.Error{Code: f.Code.String(), Reason: f.Reason, Message: advice(f)}).Encode()
		s[0] = uint64(uint32(len(in.result)) | abi.ResultError)
		return
	}
	in.result = out
	s[0] = uint64(uint32(len(out)))
}

// advice is a fault as one text: most guests hand on no more of an error than that.
func advice(f *fault.Error) string {
	if f.Help == "" {
		return f.Message
	}
	return f.Error() + "; " + f.Help
}

func hostLog(ctx context.Context, m api.Module, s []uint64) {
	p := read(m, s[1], s[2])
	if len(p) > abi.MaxLog {
		p = p[:abi.MaxLog]
	}
	current(ctx).host.Log(min(uint32(s[0]), abi.LevelError), logline.Clean(string(p)))
}

func hostNow(_ context.Context, _ api.Module, s []uint64) {
	s[0] = uint64(time.Now().UnixNano())
}

func read(m api.Module, ptr, n uint64) []byte {
	p, ok := m.Memory().Read(uint32(ptr), uint32(n))
	if !ok {
		panic(errRange)
	}
	return p
}

// ask answers one solo.call: what belongs to the call itself here, the rest by the host.
func (in *Instance) ask(ctx context.Context, op, payload []byte) ([]byte, error) {
	if len(op) > abi.MaxOp {
		return nil, fault.Invalid("op", "an op of %d bytes; the bound is %d", len(op), abi.MaxOp)
	}
	if string(op) == abi.OpCaller {
		return abi.Strings(in.caller).Encode(), nil
	}
	// Keys, names and lengths come on top of a full payload.
	if len(payload) > abi.MaxPayload+4096 {
		return nil, fault.Invalid("payload", "%d bytes; the bound is %d", len(payload), abi.MaxPayload)
	}
	return in.host.Ask(ctx, string(op), append([]byte(nil), payload...))
}

// signatures lists what a host module exports.
func signatures(cm wazero.CompiledModule) map[string]inspect.Signature {
	out := map[string]inspect.Signature{}
	for name, def := range cm.ExportedFunctions() {
		out[name] = inspect.Signature(letters(def.ParamTypes()) + ":" + letters(def.ResultTypes()))
	}
	return out
}

func letters(types []api.ValueType) string {
	out := make([]byte, len(types))
	for i, t := range types {
		switch t {
		case api.ValueTypeI32:
			out[i] = 'i'
		case api.ValueTypeI64:
			out[i] = 'I'
		case api.ValueTypeF32:
			out[i] = 'f'
		case api.ValueTypeF64:
			out[i] = 'F'
		default:
			panic(fmt.Sprintf("host function with value type %#x", t))
		}
	}
	return string(out)
}
