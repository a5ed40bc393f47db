package manifest

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// DigestPrefix begins a source that Solo holds already.
const DigestPrefix = "sha256:"

func parseSource(s string) (string, error) {
	if hex, ok := strings.CutPrefix(s, DigestPrefix); ok {
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(hex) {
			return "", fmt.Errorf("%q: want sha256: and 64 hex digits in lower case", s)
		}
		return s, nil
	}
	if s == "" || strings.ContainsRune(s, 0) {
		return "", errors.New("is no path: want a file or folder, e.g. ./billing, or sha256:…")
	}
	return filepath.FromSlash(s), nil
}

func parseOp(s string) (string, error) {
	if !subject.ValidOp(s) {
		return "", fmt.Errorf("%q is no operation name: want a-z, 0-9, _ and -, a letter first, at most 63", s)
	}
	return s, nil
}

// ParseReplicas reads how many instances a service has: 1 to 1000.
func ParseReplicas(s string) (uint32, error) { return between(parseCount, 1, 1000, showCount)(s) }

// CheckEnv tells whether a variable may have this name and value.
func CheckEnv(name, value string) error {
	switch {
	case !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`).MatchString(name):
		return fmt.Errorf("%q is no name of a variable: want letters, digits and _, no digit first, at most 128", name)
	case strings.HasPrefix(name, "SOLO_"):
		return errors.New("names beginning with SOLO_ are Solo's own")
	case len(value) > 32768:
		return fmt.Errorf("is %d bytes: at most 32768", len(value))
	}
	return nil
}

func parseMatch(s string) (string, error) {
	if s == "" || len(s) > 256 || strings.Contains(strings.TrimSuffix(s, "*"), "*") {
		return "", fmt.Errorf("%q: want a key, or a prefix followed by one *, at most 256 characters", s)
	}
	return s, nil
}

func atMost(n int) func(string) (string, error) {
	return func(s string) (string, error) {
		if len(s) > n {
			return "", fmt.Errorf("is %d bytes: at most %d", len(s), n)
		}
		return s, nil
	}
}

// contradictions looks for fields that are right by themselves and wrong together.
func (d *decoder) contradictions(doc *Document) {
	m := doc.Manifest
	if d.at["name"] == nil {
		d.add(nil, "name", "is missing: want namespace/name, e.g. acme/billing")
	}
	if d.at["format"] == nil {
		d.add(nil, "format", "is missing: want %s", strings.Join(namesOf(formats()), ", "))
		return // what else there is may be right with one of them
	}
	if n := d.at["protocol"]; n != nil && m.GetFormat() != solov1.Format_FORMAT_BINARY {
		d.add(n, "protocol", "contradicts format %s: only a binary has a protocol", wordOf(formats(), m.GetFormat()))
	}
	if n := d.at["args"]; n != nil && m.GetFormat() == solov1.Format_FORMAT_GO_SOURCE {
		d.add(n, "args", "contradicts format go: a Go service has no command line, use env")
	}
	if u := m.GetUpdate(); u != nil {
		s := u.GetStrategy()
		name := wordOf(strategies(), s)
		if name == "" {
			name = "recreate, the default"
		}
		if n := d.at["update.steps"]; n != nil && s != solov1.Strategy_STRATEGY_CANARY {
			d.add(n, "update.steps", "contradicts strategy %s: only canary has steps", name)
		}
		for _, f := range []string{"max_surge", "max_unavailable"} {
			if n := d.at["update."+f]; n != nil && s != solov1.Strategy_STRATEGY_ROLLING {
				d.add(n, "update."+f, "contradicts strategy %s: only rolling has it", name)
			}
		}
		if n := d.at["update.max_unavailable"]; n != nil && u.GetMaxUnavailable() == 0 && d.at["update.max_surge"] != nil && u.GetMaxSurge() == 0 {
			d.add(n, "update.max_unavailable", "contradicts max_surge: with both 0 no instance could ever be replaced")
		}
		last := uint32(0)
		for i, st := range u.GetSteps() {
			p := fmt.Sprintf("update.steps[%d].weight", i)
			if st.GetWeight() <= last {
				d.add(d.at[p], p, "%d does not grow: each step must have more weight than the one before", st.GetWeight())
			}
			last = st.GetWeight()
		}
	}
	if n := d.at["restart.max"]; n != nil && m.GetRestart().GetType() == solov1.RestartType_RESTART_TYPE_TEMPORARY {
		d.add(n, "restart.max", "contradicts type temporary, which never restarts")
	}
}

// namesOf are the words there are.
func namesOf[E any](words []word[E]) []string {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = w.name
	}
	return names
}

// wordOf is the word for a value, empty when it has none.
func wordOf[E comparable](words []word[E], v E) string {
	for _, w := range words {
		if w.value == v {
			return w.name
		}
	}
	return ""
}
