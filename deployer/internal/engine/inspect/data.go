package inspect

import (
	"cmp"
	"slices"
)

// mergeGap is the longest run of zeros that is written out to join two data segments: a segment costs
// the engine about as much as copying that many bytes.
const mergeGap = 256

// segment is an active data segment of memory 0 at a constant offset.
type segment struct {
	at   int64
	data []byte
}

// mergeData joins neighbouring data segments, of which some compilers make thousands, each evaluated
// at every start of an instance. Memory begins as zeros, so bytes between two segments may be written
// as zeros, and the order of segments that do not overlap is free. A section of another shape stays as
// it is.
func mergeData(body []byte) []byte {
	list, ok := segments(body)
	if !ok || len(list) < 2 {
		return body
	}
	slices.SortStableFunc(list, func(a, b segment) int { return cmp.Compare(a.at, b.at) })
	merged := list[:1:1]
	for _, s := range list[1:] {
		last := &merged[len(merged)-1]
		gap := s.at - last.at - int64(len(last.data))
		if gap < 0 {
			return body
		}
		if gap > mergeGap {
			merged = append(merged, s)
			continue
		}
		// A slice of the original module has no room to grow, so the first join copies it.
		last.data = append(append(last.data, make([]byte, gap)...), s.data...)
	}
	out := uleb(make([]byte, 0, len(body)), uint64(len(merged)))
	for _, s := range merged {
		out = append(out, 0, 0x41)
		out = sleb(out, int64(int32(uint32(s.at))))
		out = append(out, 0x0b)
		out = uleb(out, uint64(len(s.data)))
		out = append(out, s.data...)
	}
	return out
}

// segments reads a data section of active segments of memory 0 at constant offsets.
func segments(body []byte) (list []segment, ok bool) {
	r := &reader{b: body}
	for range r.count() {
		if r.u32() != 0 || r.byte() != 0x41 {
			return nil, false
		}
		at := r.s32()
		if r.byte() != 0x0b {
			return nil, false
		}
		data := r.take(r.count())
		list = append(list, segment{int64(uint32(at)), data[:len(data):len(data)]})
	}
	return list, len(r.b) == 0
}

// s32 reads a signed LEB128 of at most 32 bits.
func (r *reader) s32() int32 {
	var v int64
	for shift := uint(0); ; shift += 7 {
		if shift > 28 {
			bad("an integer is longer than 32 bits")
		}
		c := r.byte()
		v |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			if c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return int32(v)
		}
	}
}

// sleb appends a signed LEB128.
func sleb(out []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}
