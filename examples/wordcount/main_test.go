package main

import (
	"fmt"
	"testing"
)

func TestTop(t *testing.T) {
	got := fmt.Sprint(top("The cat, the dog and THE bird; a cat's life.", 3))
	if want := "[{the 3} {a 1} {and 1}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := top("  ", 3); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
