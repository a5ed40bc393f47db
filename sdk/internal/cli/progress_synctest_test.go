package cli

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// Where nobody looks, a reason for taking long is told once, and nothing else.
func TestProgressWithoutATerminal(t *testing.T) {
	for _, c := range []struct {
		why  string
		took time.Duration
		want string
	}{
		{"a reason", time.Minute, "deploying: a reason\n"},
		{"a reason", lateAfter - time.Second/2, ""},
		{"", time.Minute, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{Env: Env{Stderr: &out}}
			p := a.progress("calling")
			p.because(c.why)
			p.say("%s", "deploying")
			time.Sleep(c.took)
			p.stop()
			if out.String() != c.want {
				t.Errorf("after %s: %q", c.took, out.String())
			}
		})
	}
}
