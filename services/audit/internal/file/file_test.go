package file

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/services/audit/internal/backend"
	"github.com/solo-os/solo/services/audit/internal/backend/backendtest"
)

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func read(t *testing.T, dir string) (lines []line) {
	t.Helper()
	for _, name := range files(t, dir) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			var l line
			if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
				t.Fatalf("%s: %q: %v", name, sc.Text(), err)
			}
			lines = append(lines, l)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

func open(t *testing.T, o Options) *Files {
	t.Helper()
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConformance(t *testing.T) {
	for name, max := range map[string]int64{"one file": 0, "many files": 4000, "a file a record": 1} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			backendtest.Run(t, func() (backend.Backend, error) { return Open(Options{Dir: dir, MaxBytes: max}) }, func() (seqs []uint64, _ error) {
				for _, l := range read(t, dir) {
					seqs = append(seqs, l.Sequence)
				}
				return seqs, nil
			})
			if n := len(files(t, dir)); (max == 0) != (n == 1) {
				t.Errorf("%d files", n)
			}
		})
	}
}

func TestEveryTornTailIsMended(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Dir: dir})
	if err := f.Append(t.Context(), backendtest.Records(1, 3)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	name := files(t, dir)[0]
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(want) {
		if err := os.WriteFile(name, want[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		f := open(t, Options{Dir: dir})
		if have := uint64(strings.Count(string(want[:cut]), "\n")); f.Cursor() != have {
			t.Fatalf("cut at %d: cursor %d, want %d", cut, f.Cursor(), have)
		}
		if err := f.Append(t.Context(), backendtest.Records(1, 3)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
			t.Fatalf("cut at %d: %q %v", cut, got, err)
		}
	}
}

func TestRubbishBehindTheLastLineGoes(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Dir: dir})
	if err := f.Append(t.Context(), backendtest.Records(1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	name := files(t, dir)[0]
	w, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{strings.Repeat("\x00", maxLine+chunk) + "\n", "{}\n", "{\"sequence\":3"} {
		if _, err := w.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, Options{Dir: dir})
	if f.Cursor() != 2 {
		t.Error(f.Cursor())
	}
	if err := f.Append(t.Context(), backendtest.Records(2, 3)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if l := read(t, dir); len(l) != 3 || l[2].Sequence != 3 || string(l[2].Record) != string(backendtest.Records(3, 3)[0].Data) {
		t.Errorf("%+v", l)
	}
}

func TestAgeBeginsAFile(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_700_000_000, 0)
	o := Options{Dir: dir, MaxAge: time.Hour, Now: func() time.Time { return now }}
	f := open(t, o)
	for _, step := range []struct {
		seq   uint64
		after time.Duration
		files int
	}{{1, 0, 1}, {2, 30 * time.Minute, 1}, {3, 31 * time.Minute, 2}, {4, time.Hour, 3}} {
		now = now.Add(step.after)
		if err := f.Append(t.Context(), backendtest.Records(step.seq, step.seq)); err != nil {
			t.Fatal(err)
		}
		if n := len(files(t, dir)); n != step.files {
			t.Errorf("record %d: %d files, want %d", step.seq, n, step.files)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir}); err == nil {
		t.Error("a second writer was let in")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecordsAreKept(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Dir: dir})
	bad := backend.Record{Sequence: 1, Subject: "audit.x.y", Data: []byte("not\njson")}
	spread := backend.Record{Sequence: 2, Subject: "audit.x.y", Data: []byte("{\n \"a\": 1\n}")}
	if err := f.Append(t.Context(), []backend.Record{bad, spread}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l := read(t, dir)
	if len(l) != 2 || string(l[0].Damaged) != "not\njson" || l[0].Record != nil || string(l[1].Record) != `{"a":1}` {
		t.Errorf("%+v", l)
	}
}

func TestFailedWriteIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Dir: dir})
	if err := f.Append(t.Context(), backendtest.Records(1, 1)); err != nil {
		t.Fatal(err)
	}
	// A file that takes no more: the same file, open for reading.
	writable := f.file
	readable, err := os.Open(files(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	f.file = readable
	if err := f.Append(t.Context(), backendtest.Records(2, 2)); err == nil || f.Cursor() != 1 {
		t.Error(err, f.Cursor())
	}
	// Half a line got out before it failed.
	if _, err := writable.WriteString(`{"sequ`); err != nil {
		t.Fatal(err)
	}
	f.file = writable
	if err := f.Append(t.Context(), backendtest.Records(2, 2)); err != nil || f.Cursor() != 2 {
		t.Error(err, f.Cursor())
	}
	if err := readable.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if l := read(t, dir); len(l) != 2 || l[1].Sequence != 2 {
		t.Errorf("%+v", l)
	}
}
