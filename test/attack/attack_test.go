// Package attack attacks the whole of Solo, as real processes, with the means of those who are
// inside: a handle, a raw connection, a stolen key, a frozen or killed process. Each attack must
// fail, and has a twin, the same attack on a build with exactly one check off, in which it must
// succeed: so each is known to bite.
package attack

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/solo-os/solo/bus/check"
)

// attack is one thing that somebody might try.
type attack struct {
	name string
	// has is what the attacker holds, tries what it is after.
	has, tries string
	// off is the check that the twin goes without.
	off check.Name
	// alone has it run on a Solo of its own, for it does harm to more than its own namespace.
	alone bool
	// run tells whether the effect was observed; an error is a set-up that did not come about, or
	// a legitimate use that failed.
	run func(context.Context, *scene) (observed bool, err error)
}

// attacks are all of them.
func attacks() []attack {
	var all []attack
	for _, group := range [][]attack{
		borders(), connects(), revocations(), grants(), gateways(), takenOver(), trails(), histories(),
	} {
		all = append(all, group...)
	}
	return all
}

const attackTime = 60 * time.Second

func TestAttack(t *testing.T) {
	parent := t
	b := build(t)
	shared := b.start(t, "")
	weak := map[check.Name]*scene{} // at most one at a time
	verdicts := map[string]string{}
	defer func() { table(t.Output(), verdicts) }()
	all := attacks()
	slices.SortStableFunc(all, func(a, b attack) int { return strings.Compare(string(a.off), string(b.off)) })
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			s := shared
			if a.alone {
				s = b.start(t, "")
			}
			if verdicts[a.name] = try(t, a, s); verdicts[a.name] == succeeded {
				t.Errorf("%s, with %s: the attack succeeds", a.tries, a.has)
			}
			t.Run("twin", func(t *testing.T) {
				s := weak[a.off]
				switch {
				case a.alone:
					s = b.start(t, a.off)
				case s == nil:
					for _, old := range weak {
						old.stop()
					}
					s = b.start(parent, a.off)
					weak = map[check.Name]*scene{a.off: s}
				}
				verdict := try(t, a, s)
				if verdicts[a.name+"/twin"] = verdict; verdict == failed {
					t.Errorf("without check %q the attack still fails: the test does not bite", a.off)
				}
			})
		})
	}
}

const (
	succeeded = "succeeds"
	failed    = "fails"
	broken    = "was not made"
)

func try(t *testing.T, a attack, s *scene) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), attackTime+historyTime())
	defer cancel()
	observed, err := a.run(ctx, s)
	switch {
	case err != nil:
		t.Errorf("the attack could not be made: %v", err)
		return broken
	case observed:
		return succeeded
	}
	return failed
}

func table(w io.Writer, verdicts map[string]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "attack\twith everything on\tcheck off in its twin\ttwin\t")
	for _, a := range attacks() {
		if v := verdicts[a.name]; v != "" {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t\n", a.name, v, a.off, verdicts[a.name+"/twin"])
		}
	}
	_ = tw.Flush() // it is for people
}

// builds are the binaries: full as they are shipped, weak such that checks can be switched off.
type builds struct{ full, weak, tool string }

// build makes what SOLO_TEST_BIN (full) and SOLO_TEST_WEAK_BIN do not name.
func build(t *testing.T) builds {
	t.Helper()
	dir := t.TempDir()
	b := builds{os.Getenv("SOLO_TEST_BIN"), os.Getenv("SOLO_TEST_WEAK_BIN"), filepath.Join(dir, "tool")}
	golang(t, "../..", "build", "-o", b.tool, "-ldflags", "-s -w", "./test/attack/testdata/tool")
	if b.full == "" {
		b.full = filepath.Join(dir, "full")
		golang(t, "../..", "build", "-trimpath", "-o", b.full+"/", "work")
	}
	if b.weak == "" {
		b.weak = filepath.Join(dir, "weak")
		golang(t, "../..", "build", "-trimpath", "-tags", "checksoff", "-o", b.weak+"/", "work")
	}
	return b
}

func golang(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// tail keeps the end of what a kernel wrote, for failed tests.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 16 << 10
	if l.b = append(l.b, p...); len(l.b) > 2*most {
		l.b = append([]byte(nil), l.b[len(l.b)-most:]...)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
