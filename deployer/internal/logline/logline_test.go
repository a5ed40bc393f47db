package logline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/logline"
)

func TestWriterCutsLines(t *testing.T) {
	var got []string
	w := logline.NewWriter(func(l string) { got = append(got, l) })
	long := strings.Repeat("x", logline.Max)
	for _, part := range []string{"a\nb", "c\r\n\n", long, "yz\n", "bad \xff\n", "rest"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "bc", "", long, "yz", "bad \uFFFD", "rest"}
	if !slices.Equal(got, want) {
		t.Errorf("got %.40q", got)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tail logline.Tail
	for range 100 {
		tail.Add("line")
	}
	tail.Add(strings.Repeat("e", 20000))
	if l := tail.Lines(); len(l) != 1 || len(l[0]) != 8<<10 {
		t.Errorf("kept %d lines", len(l))
	}
	tail.Add("last")
	if !strings.HasSuffix(tail.String(), "last") {
		t.Errorf("got %q", tail.String())
	}
	tail.Add("panic: ouch")
	for range 200 {
		tail.Add("goroutine")
	}
	if l := tail.Lines(); l[0] != "panic: ouch" || len(l) != 64 {
		t.Errorf("last words lost: %d lines from %q", len(l), l[0])
	}
	tail.Reset()
	if tail.String() != "" {
		t.Error("not empty after Reset")
	}
	if s := logline.Clean(strings.Repeat("é", logline.Max)); len(s) > logline.Max+3 {
		t.Errorf("clean left %d bytes", len(s))
	}
}
