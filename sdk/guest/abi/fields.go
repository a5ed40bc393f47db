package abi

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed says that bytes are no Fields.
var ErrMalformed = errors.New("abi: malformed fields")

// Fields is a list of byte strings, each of which may be absent (nil). On the wire each is an
// unsigned varint, 0 for absent or 1 + its length, and its bytes.
type Fields [][]byte

// Encode returns f on the wire.
func (f Fields) Encode() []byte {
	n := 0
	for _, b := range f {
		n += binary.MaxVarintLen32 + len(b)
	}
	out := make([]byte, 0, n)
	for _, b := range f {
		if b == nil {
			out = append(out, 0)
			continue
		}
		out = binary.AppendUvarint(out, uint64(len(b))+1)
		out = append(out, b...)
	}
	return out
}

// Decode reads wire bytes. The fields share its memory; a present field is never nil.
func Decode(wire []byte) (Fields, error) {
	var out Fields
	for len(wire) > 0 {
		n, used := binary.Uvarint(wire)
		if used <= 0 || n > uint64(len(wire)-used)+1 {
			return nil, ErrMalformed
		}
		wire = wire[used:]
		if n == 0 {
			out = append(out, nil)
			continue
		}
		out = append(out, wire[:n-1:n-1])
		wire = wire[n-1:]
	}
	return out, nil
}

// DecodeN reads exactly n fields.
func DecodeN(wire []byte, n int) (Fields, error) {
	f, err := Decode(wire)
	if err != nil {
		return nil, err
	}
	if len(f) != n {
		return nil, ErrMalformed
	}
	return f, nil
}

// Strings makes Fields of strings.
func Strings(s ...string) Fields {
	out := make(Fields, len(s))
	for i, v := range s {
		out[i] = []byte(v)
	}
	return out
}

// Strings returns the fields as strings, absent ones empty.
func (f Fields) Strings() []string {
	out := make([]string, len(f))
	for i, v := range f {
		out[i] = string(v)
	}
	return out
}

// Error is a failed solo.call as the guest sees it.
type Error struct {
	// Code is the canonical code's name, e.g. PERMISSION_DENIED.
	Code string
	// Reason is a stable word, e.g. NOT_GRANTED.
	Reason string
	// Message is for people.
	Message string
}

// Error returns the message, or the reason where there is none.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Reason
	}
	return e.Message
}

// Encode returns e on the wire.
func (e *Error) Encode() []byte {
	return Strings(e.Code, e.Reason, e.Message).Encode()
}

// DecodeError reads an Error. Bytes that are none become an Error whose message they are.
func DecodeError(wire []byte) *Error {
	f, err := DecodeN(wire, 3)
	if err != nil {
		return &Error{Code: "UNKNOWN", Reason: "UNKNOWN", Message: string(wire)}
	}
	return &Error{Code: string(f[0]), Reason: string(f[1]), Message: string(f[2])}
}
