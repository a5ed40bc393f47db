package instance

import "bytes"

// Reply takes what a command puts out, up to a bound: beyond it nothing is kept and all is counted.
// The zero value keeps nothing; set Max first.
type Reply struct {
	// Max is the bound in bytes.
	Max  int
	buf  bytes.Buffer
	over int
}

// Write never fails, so that a command that says too much ends by itself.
func (r *Reply) Write(p []byte) (int, error) {
	if r.over > 0 || r.buf.Len()+len(p) > r.Max {
		r.over += r.buf.Len() + len(p)
		r.buf = bytes.Buffer{}
		return len(p), nil
	}
	return r.buf.Write(p)
}

// Bytes is what was put out, nothing where it is beyond the bound.
func (r *Reply) Bytes() []byte { return r.buf.Bytes() }

// Over is how many bytes were put out, where they are beyond the bound, else 0.
func (r *Reply) Over() int { return r.over }
