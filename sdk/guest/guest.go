// Package guest is what a service written in Go is made of: it registers operations in init and
// reaches the world through Solo. Built for wasip1 with -buildmode=c-shared it speaks ABI solo1; built
// for anything else it compiles, so that services can be vetted and unit-tested, and every function
// that needs a host returns ErrNoHost.
//
// One call runs at a time, so handlers need no locks. What a handler keeps in Go variables lives as
// long as the instance, which may end at any time; what must survive belongs in State. A panic or
// os.Exit ends the instance, and the next call meets a fresh one.
package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/solo-os/solo/sdk/guest/abi"
)

// ErrNoHost is what every function returns that needs a host where there is none.
var ErrNoHost = errors.New("guest: no Solo host: build with GOOS=wasip1 GOARCH=wasm -buildmode=c-shared and deploy")

// Error is a refusal by the host or by a called service: a canonical code, a stable reason and a
// message. Match it with errors.As.
type Error = abi.Error

// Handler answers one call. The payload is its own to keep. An error becomes the caller's error.
type Handler func(ctx context.Context, payload []byte) ([]byte, error)

// service is what init functions registered; instances are single-threaded, so it needs no lock.
type service struct {
	ops     map[string]Handler
	save    func(ctx context.Context) ([]byte, error)
	restore func(ctx context.Context, version uint64, saved []byte) error
	load    func(ctx context.Context, source []byte) error
}

// self is this instance's service: the ABI calls a free function, so there is nowhere else to keep it.
var self = service{ops: map[string]Handler{}}

// Handle registers the handler of an operation. It panics when the name is no operation name
// ([a-z][a-z0-9_-]{0,62}), the handler is nil or the operation has one.
func Handle(op string, h Handler) {
	switch {
	case !validOp(op):
		panic(fmt.Sprintf("guest: %q is no operation name: want [a-z][a-z0-9_-]{0,62}", op))
	case h == nil:
		panic("guest: nil handler for " + op)
	case self.ops[op] != nil:
		panic("guest: operation " + op + " registered twice")
	}
	self.ops[op] = h
}

// OnSave registers what hands over unsaved memory to the next revision at a hot reload.
func OnSave(f func(ctx context.Context) ([]byte, error)) { self.save = f }

// OnRestore registers what takes over from the revision with the given version number. An error
// keeps the old revision running.
func OnRestore(f func(ctx context.Context, version uint64, saved []byte) error) { self.restore = f }

// OnLoad registers what takes source code in, for guests that interpret a language.
func OnLoad(f func(ctx context.Context, source []byte) error) { self.load = f }

// Call calls an operation of another service, `namespace/name`, with this service's own rights.
func Call(ctx context.Context, service, op string, payload []byte) ([]byte, error) {
	if payload == nil {
		payload = []byte{}
	}
	f, err := ask(ctx, abi.OpBusCall, abi.Fields{[]byte(service), []byte(op), payload}, 1)
	if err != nil {
		return nil, err
	}
	return f[0], nil
}

// Caller returns the id of the capability behind the call being answered, empty where there is none.
func Caller(ctx context.Context) string {
	f, err := ask(ctx, abi.OpCaller, nil, 1)
	if err != nil {
		return ""
	}
	return string(f[0])
}

// dispatch runs one message and returns the output's status and bytes.
func (s *service) dispatch(ctx context.Context, kind uint32, op string, payload []byte) (uint32, []byte) {
	var out []byte
	var err error
	switch kind {
	case abi.KindCall:
		h := s.ops[op]
		if h == nil {
			return abi.StatusUnknownOp, abi.Strings(s.known()...).Encode()
		}
		out, err = h(ctx, payload)
	case abi.KindLoad:
		if s.load == nil {
			err = errors.New("this service takes no source")
			break
		}
		err = s.load(ctx, payload)
	case abi.KindSave:
		if s.save != nil {
			out, err = s.save(ctx)
		}
	case abi.KindRestore:
		if s.restore == nil {
			break
		}
		var version uint64
		if version, err = strconv.ParseUint(op, 10, 64); err == nil {
			err = s.restore(ctx, version, payload)
		}
	default:
		err = fmt.Errorf("kind %d is unknown to this guest", kind)
	}
	if err != nil {
		return abi.StatusError, []byte(err.Error())
	}
	return abi.StatusOK, out
}

// known returns the operations in order.
func (s *service) known() []string {
	ops := make([]string, 0, len(s.ops))
	for op := range s.ops {
		ops = append(ops, op)
	}
	slices.Sort(ops)
	return ops
}

// ask makes one request of the host and checks the shape of its answer; n < 0 takes any number.
func ask(ctx context.Context, op string, f abi.Fields, n int) (abi.Fields, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wire, err := hostCall(op, f.Encode())
	if err != nil {
		return nil, err
	}
	if n < 0 {
		return abi.Decode(wire)
	}
	out, err := abi.DecodeN(wire, n)
	if err != nil {
		return nil, fmt.Errorf("answer to %s: %w", op, err)
	}
	return out, nil
}

func validOp(op string) bool {
	if len(op) == 0 || len(op) > 63 || op[0] < 'a' || op[0] > 'z' {
		return false
	}
	return strings.Trim(op, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
