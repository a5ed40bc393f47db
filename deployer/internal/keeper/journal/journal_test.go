package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/solo-os/solo/deployer/internal/keeper/journal"
)

func open(t *testing.T, path string) (*journal.Journal, []string, journal.Recovery) {
	t.Helper()
	var got []string
	j, rec, err := journal.Open(path, func(r []byte) error { got = append(got, string(r)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, got, rec
}

func fill(t *testing.T, j *journal.Journal, n int) (want []string) {
	t.Helper()
	for i := range n {
		r := fmt.Sprintf("record %d", i)
		if err := j.Append([]byte(r), i%10 == 0); err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
	}
	return want
}

func TestReopenFindsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := open(t, path)
	want := append(fill(t, j, 50), "")
	if err := j.Append(nil, true); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	_, got, rec := open(t, path)
	if !slices.Equal(got, want) || rec.Records != 51 || rec.TornBytes != 0 {
		t.Errorf("got %d records, %+v", len(got), rec)
	}
}

// TestEveryTornTail cuts the file at every byte: what was whole before the cut is found, and the
// journal goes on from there.
func TestEveryTornTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := open(t, path)
	want := fill(t, j, 5)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, got, _ := open(t, path)
		if !slices.Equal(got, want[:len(got)]) || cut/16 < len(got)-1 {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		if err := j.Append([]byte("more"), false); err != nil {
			t.Fatal(err)
		}
		if _, again, rec := open(t, path); rec.TornBytes != 0 || again[len(again)-1] != "more" || len(again) != len(got)+1 {
			t.Fatalf("cut at %d, then appended: %q %+v", cut, again, rec)
		}
	}
}

// TestDamage flips each byte: nothing but what was written is ever replayed.
func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := open(t, path)
	want := fill(t, j, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, got, rec := open(t, path)
		if !slices.Equal(got, want[:len(got)]) || len(got) == 3 || rec.TornBytes == 0 {
			t.Fatalf("byte %d flipped: %q %+v", i, got, rec)
		}
	}
	if err := os.WriteFile(path, append(whole, make([]byte, 100)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, got, rec := open(t, path); len(got) != 3 || rec.TornBytes != 100 {
		t.Errorf("zeros at the end: %q %+v", got, rec)
	}
}

func TestRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := open(t, path)
	fill(t, j, 100)
	before := j.Size()
	broken := errors.New("no")
	if err := j.Rewrite(func(func([]byte) error) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if err := j.Append([]byte("still"), false); err != nil || j.Size() <= before {
		t.Fatalf("after a failed rewrite: %v", err)
	}
	if err := j.Rewrite(func(add func([]byte) error) error { return add([]byte("only")) }); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("next"), true); err != nil {
		t.Fatal(err)
	}
	if _, got, _ := open(t, path); !slices.Equal(got, []string{"only", "next"}) {
		t.Errorf("got %q", got)
	}
	if err := j.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := open(t, path)
	if err := j.Append(make([]byte, journal.MaxRecord+1), false); err == nil {
		t.Error("an endless record was taken")
	}
	fill(t, j, 1)
	no := errors.New("no")
	if _, _, err := journal.Open(path, func([]byte) error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if _, _, err := journal.Open(filepath.Dir(path), nil); err == nil {
		t.Error("a directory was opened")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("x"), false); err == nil {
		t.Error("a closed journal took a record")
	}
	if err := j.Append([]byte("x"), false); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("got %v", err)
	}
	if err := j.Sync(); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("got %v", err)
	}
}
