package runner

import (
	"bytes"

	"github.com/solo-os/solo/sdk/guest/abi"
)

// entryBytes is what a key of mode none counts for beyond its name and value: without that, empty
// values would fill this process unseen.
const entryBytes = 64

// volatile is the state that goes with an instance, held nowhere but here.
type volatile struct {
	m     map[string][]byte
	bytes uint64
}

func newVolatile() volatile { return volatile{m: map[string][]byte{}} }

// after is what it would hold with key and value pairs applied, a nil value deleting.
func (v *volatile) after(pairs abi.Fields) uint64 {
	n := int64(v.bytes)
	batch := make(map[string]int64, len(pairs)/2) // sizes of the keys of this batch as they become
	for i := 0; i < len(pairs); i += 2 {
		key := string(pairs[i])
		was, again := batch[key]
		if old, ok := v.m[key]; !again && ok {
			was = entrySize(key, old)
		}
		batch[key] = 0
		if pairs[i+1] != nil {
			batch[key] = entrySize(key, pairs[i+1])
		}
		n += batch[key] - was
	}
	return uint64(n)
}

func entrySize(key string, value []byte) int64 { return entryBytes + int64(len(key)+len(value)) }

// apply sets and deletes. Values are copied: a small one must not hold on to the call it came in.
func (v *volatile) apply(pairs abi.Fields) {
	v.bytes = v.after(pairs)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(v.m, string(pairs[i]))
			continue
		}
		v.m[string(pairs[i])] = bytes.Clone(pairs[i+1])
	}
}

func (v *volatile) clear() {
	clear(v.m)
	v.bytes = 0
}
