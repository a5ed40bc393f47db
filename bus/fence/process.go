package fence

import (
	"os"
	"strconv"
	"strings"
)

// process is a process of this machine, known by its number and when it started, because
// numbers are used again. The zero value is one nobody can tell about.
type process struct {
	pid   uint32
	start string
}

func lookup(pid uint32) process {
	start, ok := startOf(pid)
	if !ok {
		return process{}
	}
	return process{pid, start}
}

// gone tells whether the process has certainly ended.
func (p process) gone() bool {
	if p.pid == 0 {
		return false
	}
	start, ok := startOf(p.pid)
	return !ok || start != p.start
}

// startOf reads the start time of a process that has not ended, from /proc/<pid>/stat.
func startOf(pid uint32) (string, bool) {
	b, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/stat")
	if err != nil {
		return "", false
	}
	// The name of the program stands in brackets and may itself hold brackets.
	i := strings.LastIndex(string(b), ") ")
	if i < 0 {
		return "", false
	}
	f := strings.Fields(string(b)[i+2:])
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return "", false
	}
	return f[19], true
}
