// Package logline cuts a byte stream into log lines. It promises bounded memory whatever is
// written: a line longer than Max is delivered in parts, and a writer is never held up by more than
// its receiver takes.
package logline

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"
)

// Max is the longest line delivered, in bytes.
const Max = 16 << 10

// Writer delivers what is written to it line by line, without line ends, as valid UTF-8. It may be
// written to from several goroutines.
type Writer struct {
	mu   sync.Mutex // guards buf and orders calls of emit
	buf  []byte
	emit func(line string)
}

// NewWriter returns a writer that gives each line to emit.
func NewWriter(emit func(line string)) *Writer { return &Writer{emit: emit} }

// Write takes bytes and never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := Max - len(w.buf); len(part) > room {
			w.buf = append(w.buf, part[:room]...)
			w.flush()
			p = p[room:]
			continue
		}
		w.buf = append(w.buf, part...)
		if i < 0 {
			break
		}
		w.flush()
		p = p[i+1:]
	}
	return n, nil
}

// Close delivers what is left of a line without an end.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.flush()
	}
	return nil
}

func (w *Writer) flush() {
	w.emit(Clean(string(bytes.TrimSuffix(w.buf, []byte{'\r'}))))
	w.buf = w.buf[:0]
	if cap(w.buf) > 4096 {
		w.buf = nil
	}
}

// Clean makes a string valid UTF-8 and at most Max bytes long.
func Clean(s string) string {
	if len(s) > Max {
		s = s[:Max]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Tail keeps the last lines and bytes of a stream for error texts and crash records. When a Go
// program begins to say why it dies, it keeps the beginning of that instead. The zero value is ready.
type Tail struct {
	mu    sync.Mutex // guards what follows
	lines []string
	size  int
	dying bool
}

// Bounds of a Tail.
const (
	tailLines = 64
	tailBytes = 8 << 10
)

// Add takes one line.
func (t *Tail) Add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(line) > tailBytes {
		line = Clean(line[:tailBytes])
	}
	switch {
	case t.dying:
		if len(t.lines) == tailLines || t.size+len(line) > tailBytes {
			return
		}
	case Dying(line):
		t.dying, t.lines, t.size = true, nil, 0
	}
	t.lines = append(t.lines, line)
	t.size += len(line)
	for len(t.lines) > tailLines || (t.size > tailBytes && len(t.lines) > 1) {
		t.size -= len(t.lines[0])
		t.lines = t.lines[1:]
	}
}

// Lines returns what is kept, oldest first.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// Reset forgets everything.
func (t *Tail) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines, t.size, t.dying = nil, 0, false
}

// Dying tells whether a line is the first of a Go program's last words.
func Dying(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") ||
		strings.HasPrefix(line, "runtime: out of memory")
}

// String returns the lines as one text.
func (t *Tail) String() string { return strings.Join(t.Lines(), "\n") }
