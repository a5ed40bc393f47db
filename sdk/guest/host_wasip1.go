//go:build wasip1

package guest

import (
	"context"
	"unsafe"

	"github.com/solo-os/solo/sdk/guest/abi"
)

//go:wasmimport solo input
func soloInput(which uint32, dst unsafe.Pointer)

//go:wasmimport solo output
func soloOutput(status uint32, p unsafe.Pointer, n uint32)

//go:wasmimport solo call
func soloCall(op unsafe.Pointer, oplen uint32, p unsafe.Pointer, n uint32) uint32

//go:wasmimport solo log
func soloLog(level uint32, p unsafe.Pointer, n uint32)

//go:wasmexport solo_handle
func soloHandle(kind, oplen, payloadlen uint32) uint32 {
	op, payload := take(abi.InputOp, oplen), take(abi.InputPayload, payloadlen)
	status, out := self.dispatch(context.Background(), kind, string(op), payload)
	soloOutput(status, unsafe.Pointer(unsafe.SliceData(out)), uint32(len(out)))
	if status != abi.StatusOK {
		return 1
	}
	return 0
}

// take copies one of the host's buffers into the guest.
func take(which, n uint32) []byte {
	b := make([]byte, n)
	if n > 0 {
		soloInput(which, unsafe.Pointer(unsafe.SliceData(b)))
	}
	return b
}

func hostCall(op string, payload []byte) ([]byte, error) {
	r := soloCall(unsafe.Pointer(unsafe.StringData(op)), uint32(len(op)),
		unsafe.Pointer(unsafe.SliceData(payload)), uint32(len(payload)))
	out := take(abi.InputResult, r&^abi.ResultError)
	if r&abi.ResultError != 0 {
		return nil, abi.DecodeError(out)
	}
	return out, nil
}

func hostLog(level uint32, line string) error {
	soloLog(level, unsafe.Pointer(unsafe.StringData(line)), uint32(len(line)))
	return nil
}
