package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's tour does what it says: every command of its console blocks runs, in order, in
// one folder, and prints what stands there. In the expected output … stands for anything, and
// a line [exit N] for an exit code that is not 0.
func TestTourOfTheReadme(t *testing.T) {
	w := start(t)
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	steps := tour(string(text))
	if len(steps) < 10 {
		t.Fatalf("only %d commands found in the README", len(steps))
	}
	for _, s := range steps {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", s.command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SOLO_HOME="+w.Home(), "PATH="+filepath.Dir(w.Bin("solo"))+":"+os.Getenv("PATH"))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if err != nil && cmd.ProcessState == nil {
			t.Fatalf("$ %s: %v", s.command, err)
		}
		got := strings.TrimSpace(out.String())
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			got += fmt.Sprintf("\n[exit %d]", code)
		}
		if !s.want.MatchString(got) {
			t.Errorf("$ %s\nprints:\n%s\nthe README says:\n%s", s.command, got, s.text)
		}
	}
}

type step struct {
	command, text string
	want          *regexp.Regexp
}

func tour(readme string) (steps []step) {
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		for _, part := range strings.Split("\n"+strings.TrimSpace(block[1]), "\n$ ")[1:] {
			command, expected, _ := strings.Cut(part, "\n")
			pattern := regexp.QuoteMeta(strings.TrimSpace(expected))
			pattern = strings.ReplaceAll(pattern, "…", `(?s:.*)`)
			steps = append(steps, step{command, expected, regexp.MustCompile(`^` + pattern + `$`)})
		}
	}
	return steps
}
