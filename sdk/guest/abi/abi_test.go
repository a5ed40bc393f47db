package abi_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/solo-os/solo/sdk/guest/abi"
)

func TestFieldsRoundTrip(t *testing.T) {
	for _, in := range []abi.Fields{
		nil,
		{nil},
		{[]byte{}},
		{[]byte("key"), nil, []byte(""), bytes.Repeat([]byte{7}, 300)},
	} {
		out, err := abi.Decode(in.Encode())
		if err != nil || !same(in, out) {
			t.Errorf("%q became %q, %v", in, out, err)
		}
	}
}

func TestDecodeRefusesBrokenBytes(t *testing.T) {
	for _, wire := range [][]byte{
		{2},
		{5, 'a'},
		{0x80},
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		if f, err := abi.Decode(wire); !errors.Is(err, abi.ErrMalformed) {
			t.Errorf("% x decoded to %q, %v", wire, f, err)
		}
	}
	if _, err := abi.DecodeN(abi.Strings("a", "b").Encode(), 1); !errors.Is(err, abi.ErrMalformed) {
		t.Errorf("two fields passed for one: %v", err)
	}
	if _, err := abi.DecodeN([]byte{9}, 1); !errors.Is(err, abi.ErrMalformed) {
		t.Errorf("broken bytes passed: %v", err)
	}
}

func TestErrorRoundTrip(t *testing.T) {
	in := &abi.Error{Code: "PERMISSION_DENIED", Reason: "NOT_GRANTED", Message: "no"}
	if out := abi.DecodeError(in.Encode()); *out != *in || out.Error() != "no" {
		t.Errorf("got %+v", out)
	}
	if out := abi.DecodeError([]byte("plain words")); out.Message != "plain words" || out.Reason != "UNKNOWN" {
		t.Errorf("got %+v", out)
	}
	if s := (&abi.Error{Reason: "GONE"}).Error(); s != "GONE" {
		t.Errorf("got %q", s)
	}
}

func TestStrings(t *testing.T) {
	f := abi.Fields{[]byte("a"), nil}
	if s := f.Strings(); len(s) != 2 || s[0] != "a" || s[1] != "" {
		t.Errorf("got %q", s)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0, 1, 2, 'a'})
	f.Add(abi.Strings("state.get", "n").Encode())
	f.Fuzz(func(t *testing.T, wire []byte) {
		fields, err := abi.Decode(wire)
		if err != nil {
			return
		}
		again, err := abi.Decode(fields.Encode())
		if err != nil || !same(fields, again) {
			t.Fatalf("% x: %q became %q, %v", wire, fields, again, err)
		}
	})
}

func same(a, b abi.Fields) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) || !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
