package file

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/solo-os/solo/services/audit/internal/backend"
)

const (
	// maxLine is longer than the line of any record that the stream takes.
	maxLine = 1 << 20
	chunk   = 64 << 10
)

type line struct {
	Sequence uint64          `json:"sequence"`
	Stored   time.Time       `json:"stored"`
	Subject  string          `json:"subject"`
	Record   json.RawMessage `json:"record,omitempty"`
	Damaged  []byte          `json:"damaged,omitempty"`
}

func encode(b *bytes.Buffer, r backend.Record) error {
	l := line{Sequence: r.Sequence, Stored: r.Stored.UTC(), Subject: r.Subject}
	if json.Valid(r.Data) {
		l.Record = r.Data
	} else {
		l.Damaged = r.Data
	}
	text, err := json.Marshal(l) // compacts: no line break inside
	if err != nil {
		return err
	}
	b.Write(text)
	return b.WriteByte('\n')
}

// ends finds the first and the last whole line of a file, and how many bytes there are up to
// the end of the last; 0 when there is none.
func ends(f *os.File) (first, last line, size int64, err error) {
	size, err = f.Seek(0, io.SeekEnd)
	for err == nil && size > 0 {
		var begin int64
		if begin, err = lineBegin(f, size); err != nil {
			break
		}
		if ok := false; size-begin <= maxLine {
			if last, ok, err = readLine(f, begin, size-begin); ok {
				first, _, err = readLine(f, 0, min(size, maxLine))
				return first, last, size, err
			}
		}
		size = begin
	}
	return first, last, 0, err
}

// lineBegin finds where the line that ends before end begins, whether it ends in a line break
// or in the middle.
func lineBegin(f *os.File, end int64) (int64, error) {
	b := make([]byte, chunk)
	for at := end - 1; at > 0; {
		n := min(at, chunk)
		if _, err := f.ReadAt(b[:n], at-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			return at - n + int64(i) + 1, nil
		}
		at -= n
	}
	return 0, nil
}

// readLine reads the first line in n bytes at an offset; ok when it is a whole record.
func readLine(f *os.File, at, n int64) (l line, ok bool, err error) {
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		return l, false, err
	}
	text, _, whole := bytes.Cut(b, []byte{'\n'})
	if !whole || json.Unmarshal(text, &l) != nil || l.Sequence == 0 {
		return line{}, false, nil
	}
	return l, true, nil
}
