package home

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	h := &Home{Dir: t.TempDir()}
	if at, err := h.Clock(); err != nil || !at.IsZero() {
		t.Errorf("without a note: %s %v", at, err)
	}
	now := time.Now()
	if err := h.SetClock(now); err != nil {
		t.Fatal(err)
	}
	if at, err := h.Clock(); err != nil || !at.Equal(now) {
		t.Errorf("%s %v, want %s", at, err, now)
	}
	if err := os.WriteFile(h.clock(), []byte("tomorrow"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Clock(); err == nil || !strings.Contains(err.Error(), h.clock()) {
		t.Errorf("a damaged note: %v", err)
	}
}
