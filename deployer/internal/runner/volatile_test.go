package runner

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/solo-os/solo/sdk/guest/abi"
)

// What is counted is what is held, whatever is set, deleted and set again in one batch.
func TestVolatileCountsWhatItHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := newVolatile()
		for range rapid.IntRange(1, 20).Draw(t, "batches") {
			var pairs abi.Fields
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				value := []byte(rapid.StringN(0, 5, 20).Draw(t, "value"))
				if rapid.Bool().Draw(t, "delete") {
					value = nil
				}
				pairs = append(pairs, []byte(rapid.SampledFrom([]string{"a", "bb", "ccc"}).Draw(t, "key")), value)
			}
			want := v.after(pairs)
			v.apply(pairs)
			held := int64(0)
			for k, x := range v.m {
				held += entrySize(k, x)
			}
			if v.bytes != want || int64(v.bytes) != held {
				t.Fatalf("%d bytes are counted, %d foreseen, %d held", v.bytes, want, held)
			}
		}
	})
}
