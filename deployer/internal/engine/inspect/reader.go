package inspect

// reader walks bytes; it throws malformed at their end.
type reader struct {
	b []byte
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		bad("unexpected end")
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// u32 reads an unsigned LEB128 of at most 32 bits.
func (r *reader) u32() uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			if v > 0xffffffff {
				bad("an integer is longer than 32 bits")
			}
			return v
		}
		if shift >= 28 {
			bad("an integer is longer than 32 bits")
		}
	}
}

// count reads the length of a vector, each element of which takes at least one byte.
func (r *reader) count() int {
	n := r.u32()
	if n > uint64(len(r.b)) {
		bad("a list of %d entries in %d bytes", n, len(r.b))
	}
	return int(n)
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		bad("%d bytes wanted, %d left", n, len(r.b))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) name() string { return string(r.take(r.count())) }

// limits reads a min and an optional max.
func (r *reader) limits() (flags byte, lo, hi uint64, bounded bool) {
	flags = r.byte()
	lo = r.u32()
	if flags&1 != 0 {
		return flags, lo, r.u32(), true
	}
	return flags, lo, 0, false
}

// uleb appends an unsigned LEB128.
func uleb(out []byte, v uint64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}
