package door

import "io"

// Sizes of the buffer of one direction, in bytes. It grows while reads fill it and shrinks
// when they have not for a while, so that ten thousand idle connections stay cheap.
const (
	minWindow = 2 << 10
	maxWindow = 64 << 10
	idleReads = 32
)

// window is the bytes of a stream that have been read and not passed on.
type window struct {
	buf      []byte
	from, to int
	small    int // reads in a row that left most of it empty
}

// fill reads at least one byte, at most limit where it is above zero. What is left from
// before moves to the front.
func (w *window) fill(r io.Reader, limit int) error {
	if w.from > 0 {
		w.to = copy(w.buf, w.buf[w.from:w.to])
		w.from = 0
	}
	switch {
	case w.buf == nil:
		w.buf = make([]byte, minWindow)
	case w.to == len(w.buf):
		w.resize(2 * len(w.buf))
	case w.small > idleReads && w.to == 0 && len(w.buf) > minWindow:
		w.resize(len(w.buf) / 2)
	}
	end := len(w.buf)
	if limit > 0 {
		end = min(end, w.to+limit)
	}
	n, err := r.Read(w.buf[w.to:end])
	w.to += n
	switch {
	case w.to == len(w.buf) && len(w.buf) < maxWindow:
		w.resize(2 * len(w.buf))
	case n < len(w.buf)/4:
		w.small++
	default:
		w.small = 0
	}
	if n > 0 {
		return nil // an error comes again with the next read
	}
	return err
}

func (w *window) resize(n int) {
	b := make([]byte, n)
	w.to = copy(b, w.buf[w.from:w.to])
	w.buf, w.from, w.small = b, 0, 0
}
