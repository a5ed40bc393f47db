package inspect

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// image is the memory that a data section makes.
func image(t *testing.T, body []byte, size int) []byte {
	t.Helper()
	mem := make([]byte, size)
	list, ok := segments(body)
	if !ok {
		t.Fatal("not a section of active segments")
	}
	for _, s := range list {
		copy(mem[s.at:], s.data)
	}
	return mem
}

func section(list []segment) []byte {
	out := uleb(nil, uint64(len(list)))
	for _, s := range list {
		out = append(sleb(append(out, 0, 0x41), s.at), 0x0b)
		out = append(uleb(out, uint64(len(s.data))), s.data...)
	}
	return out
}

func TestMergeDataKeepsTheMemory(t *testing.T) {
	const size = 1 << 16
	for range 200 {
		var list []segment
		for at := rand.IntN(100); at < size-200; at += rand.IntN(2000) {
			s := segment{int64(at), bytes.Repeat([]byte{byte(1 + rand.IntN(255))}, rand.IntN(100))}
			list = append(list, s)
			at += len(s.data)
		}
		if rand.IntN(4) == 0 {
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		}
		before := section(list)
		keep := bytes.Clone(before)
		after := mergeData(before)
		if !bytes.Equal(before, keep) {
			t.Fatal("the original was changed")
		}
		if !bytes.Equal(image(t, before, size), image(t, after, size)) {
			t.Fatalf("%d segments: another memory", len(list))
		}
	}
}

func TestMergeDataJoins(t *testing.T) {
	in := section([]segment{{8, []byte("a")}, {20, []byte("b")}, {1000, []byte("c")}, {-1 & 0x7fffffff, []byte("d")}})
	list, ok := segments(mergeData(in))
	if !ok || len(list) != 3 || len(list[0].data) != 13 || list[2].at != 0x7fffffff {
		t.Errorf("got %+v", list)
	}
	for _, other := range [][]byte{
		{1, 1, 1, 'x'},                // passive
		{1, 0, 0x23, 0, 0x0b, 1, 'x'}, // offset of a global
		section([]segment{{8, []byte("abc")}, {9, []byte("x")}}), // overlapping
	} {
		if !bytes.Equal(mergeData(other), other) {
			t.Errorf("% x was changed", other)
		}
	}
}
