package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyTree copies a folder in place of another.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
}

// A store whose record of capabilities was changed in any way does not open: the error says what and
// where, and so does the doctor. The same store unchanged opens.
func TestAChangedRecordOfCapabilitiesIsFound(t *testing.T) {
	w := newWorld(t, bin(t))
	dir := w.Home()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	up := func() {
		t.Helper()
		if _, err := w.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	down := func() {
		t.Helper()
		if err := w.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	bus, head, kept := filepath.Join(dir, "bus"), filepath.Join(dir, "caps.head"), home(t)
	up()
	for i := range 6 {
		grant(t, w, fmt.Sprint("early", i), "svc:a/*=*")
	}
	down()
	copyTree(t, bus, kept+"/old")
	up()
	var last string
	for i := range 6 {
		last = grant(t, w, fmt.Sprint("late", i), "svc:b/*=*")
	}
	solo(t, w, "", "revoke", last)
	down()
	copyTree(t, bus, kept+"/bus")
	signed, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	block := filepath.Join(bus, "jetstream", "KERNEL", "streams", "CAPS", "msgs", "1.blk")
	flip := func(at float64) func() error {
		return func() error {
			b, err := os.ReadFile(block)
			if err != nil {
				return err
			}
			b[int(at*float64(len(b)-1))] ^= 0x10
			return os.WriteFile(block, b, 0o600)
		}
	}
	cut := func(part float64) func() error {
		return func() error {
			st, err := os.Stat(block)
			if err != nil {
				return err
			}
			return os.Truncate(block, int64(part*float64(st.Size())))
		}
	}
	for name, change := range map[string]func() error{
		"a bit early on":      flip(0.1),
		"a bit in the middle": flip(0.5),
		"a bit of the last":   flip(0.97),
		"half cut off":        cut(0.5),
		"the last cut off":    cut(0.95),
		"an old copy":         func() error { copyTree(t, kept+"/old", bus); return nil },
		"no store":            func() error { return os.RemoveAll(bus) },
		"no head":             func() error { return os.Remove(head) },
		"another head": func() error {
			return os.WriteFile(head, []byte(strings.Replace(string(signed), `"sequence":`, `"sequence":1`, 1)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			copyTree(t, kept+"/bus", bus)
			if err := os.WriteFile(head, signed, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Start(ctx); err == nil {
				down()
				t.Fatal("Solo opens")
			}
			r := w.Solo(ctx, "", "doctor")
			if r.Code != 1 || !strings.Contains(r.Out, "FAIL  capabilities: user space stays closed: the capability chain is broken") || !strings.Contains(r.Out, "next: put back the store") {
				t.Errorf("the doctor says, with code %d:\n%s%s", r.Code, r.Out, r.Err)
			}
		})
	}
	copyTree(t, kept+"/bus", bus)
	if err := os.WriteFile(head, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	up()
	if r := w.Solo(ctx, last, "ps"); r.Code != 1 || !strings.Contains(r.Err, "HANDLE_REFUSED") {
		t.Errorf("what was revoked before: %+v", r)
	}
	if r := w.Solo(ctx, "", "doctor"); !strings.Contains(r.Out, "ok    capabilities") {
		t.Errorf("%s", r.Out)
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Gone(ctx); err != nil {
		t.Error(err)
	}
}
