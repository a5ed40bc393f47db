package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A machine's clock that is set back while Solo does not run gives nobody more time. To set it is not a
// test's to do: instead the home's note says that it has been two hours later already.
func TestAClockSetBackWhileSoloIsDown(t *testing.T) {
	w := newWorld(t, bin(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	old := grant(t, w, "old", "svc:a/*=*") // for an hour
	if r := w.Solo(ctx, old, "ps"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(w.Home(), "clock")
	noted := func() time.Time {
		b, err := os.ReadFile(note)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	later := noted().Add(2 * time.Hour)
	if err := os.WriteFile(note, []byte(later.Format(time.RFC3339Nano)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if r := w.Solo(ctx, old, "ps"); r.Code != 1 || !strings.Contains(r.Err, "HANDLE_REFUSED") {
		t.Errorf("a capability lives after its time: %+v", r)
	}
	if r := w.Solo(ctx, grant(t, w, "new", "svc:a/*=*"), "ps"); r.Code != 0 {
		t.Errorf("a new one does not live: %+v", r)
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if noted().Before(later) {
		t.Errorf("the note says %s, and %s before", noted(), later)
	}
}
