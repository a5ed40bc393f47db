package control

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// maxCrash bounds one encoded record, whatever the service wrote: what an encoding makes of a text
	// can be several times its length.
	maxCrash = 64 << 10
	// crashText is how much text a record begins with, in bytes; less where its encoding is too long.
	crashText = 32 << 10
)

// encodeCrash names a record by its content and encodes it within maxCrash.
func encodeCrash(x *solov1.Crash) (id string, b []byte, err error) {
	for room := crashText; room > 0; room /= 2 {
		y := cut(x, room)
		if b, err = (proto.MarshalOptions{Deterministic: true}).Marshal(y); err != nil {
			return "", nil, err
		}
		sum := sha256.Sum256(b)
		y.Id = hex.EncodeToString(sum[:])
		if b, err = protojson.Marshal(y); err != nil || len(b) <= maxCrash {
			return y.Id, b, err
		}
	}
	return "", nil, fmt.Errorf("%d bytes without any text; at most %d", len(b), maxCrash)
}

// cut is a copy of a record with at most room bytes of text: the message and the trace from their
// beginning, and the last lines.
func cut(x *solov1.Crash, room int) *solov1.Crash {
	x = proto.CloneOf(x)
	x.Id = ""
	x.Instance, x.Kind = legible(x.GetInstance(), 256), legible(x.GetKind(), 256)
	x.Message = legible(x.GetMessage(), room/4)
	x.Trace = legible(x.GetTrace(), room/2)
	var lines []string
	left := room - len(x.Message) - len(x.Trace)
	for _, l := range slices.Backward(x.GetLogs()) {
		l = legible(l, left)
		if left -= len(l) + 4; left < 0 { // quotes, a comma, a space
			break
		}
		lines = append(lines, l)
	}
	slices.Reverse(lines)
	x.Logs = lines
	return x
}

// legible is at most n bytes of a text without what no terminal shows: control characters, which an
// encoding blows up, and bytes that are no UTF-8.
func legible(s string, n int) string {
	if len(s) > n {
		s = s[:max(0, n)]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
