// Package backendtest is the conformance suite of audit backends.
package backendtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/solo-os/solo/services/audit/internal/backend"
)

// Records makes well-formed records from a sequence to another, both included.
func Records(from, to uint64) (out []backend.Record) {
	for seq := from; seq <= to; seq++ {
		out = append(out, backend.Record{
			Sequence: seq, Subject: "audit.deployer.deploy", Stored: time.Unix(int64(seq), 0).UTC(),
			Data: fmt.Appendf(nil, `{"component":"deployer","event":"deploy","object":"svc:acme/s%d"}`, seq),
		})
	}
	return out
}

// Run checks a backend. open opens the same place again each time it is called; read returns
// the sequences that the place holds, in its order.
func Run(t *testing.T, open func() (backend.Backend, error), read func() ([]uint64, error)) {
	t.Helper()
	var b backend.Backend
	reopen := func() {
		t.Helper()
		if b != nil {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if b, err = open(); err != nil {
			t.Fatal(err)
		}
	}
	add := func(cursor uint64, records []backend.Record) {
		t.Helper()
		if err := b.Append(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		if b.Cursor() != cursor {
			t.Fatalf("cursor %d, want %d", b.Cursor(), cursor)
		}
	}
	reopen()
	if b.Cursor() != 0 {
		t.Fatalf("cursor %d of an empty place", b.Cursor())
	}
	add(0, nil)
	add(3, Records(1, 3))
	add(3, Records(2, 3)) // seen before
	add(5, Records(3, 5)) // partly
	reopen()
	if b.Cursor() != 5 {
		t.Fatalf("cursor %d after opening again, want 5", b.Cursor())
	}
	add(5, Records(1, 5))
	add(9, Records(8, 9)) // 6 and 7 are missing from the stream
	add(2009, Records(10, 2009))
	reopen()
	if b.Cursor() != 2009 {
		t.Fatalf("cursor %d after opening again, want 2009", b.Cursor())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := read()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2007 {
		t.Fatalf("%d records, want 2007", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i] <= got[i-1] {
			t.Fatalf("%d comes after %d", got[i], got[i-1])
		}
	}
}
