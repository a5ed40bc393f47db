package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func (h *Home) clock() string { return filepath.Join(h.Dir, "clock") }

// Clock is how late it has been already by this home's own note; the zero time where there is none.
func (h *Home) Clock() (time.Time, error) {
	b, err := os.ReadFile(h.clock())
	if errors.Is(err, os.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("home: %w", err)
	}
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}, fmt.Errorf("home: %s is damaged: write the time into it, as 2006-01-02T15:04:05Z: capabilities expire by it when the machine's clock was set back (%w)", h.clock(), err)
	}
	return t, nil
}

// SetClock notes how late it is.
func (h *Home) SetClock(t time.Time) error {
	return WriteFile(h.clock(), []byte(t.UTC().Format(time.RFC3339Nano)+"\n"))
}
