package native

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pidSuffix is the ending of the file beside a working directory that holds pid and start time.
const pidSuffix = ".pid"

// clockTick is the unit of /proc times; Linux fixes it for user space.
const clockTick = 10 * time.Millisecond

// stat is what we read of /proc/<pid>/stat.
type stat struct {
	cpu  time.Duration // own and reaped children's
	born uint64        // clock ticks since boot
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name in parentheses may hold anything, so count from its end: fields from 3 on.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return stat{}, errors.New("short stat")
	}
	var ticks uint64
	for _, s := range f[11:15] {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return stat{}, err
		}
		ticks += n
	}
	born, err := strconv.ParseUint(f[19], 10, 64)
	return stat{time.Duration(ticks) * clockTick, born}, err
}

// treeDepth and treeSize bound the walk over a process's descendants.
const (
	treeDepth = 8
	treeSize  = 256
)

// treeRSS adds up the resident memory of a process and its descendants.
func treeRSS(pid int) uint64 {
	left := treeSize
	return walk(pid, treeDepth, &left)
}

func walk(pid, depth int, left *int) uint64 {
	if *left == 0 {
		return 0
	}
	*left--
	sum := Resident(pid)
	if depth == 0 {
		return sum
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return sum
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, s := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(s); err == nil {
				sum += walk(child, depth-1, left)
			}
		}
	}
	return sum
}

// Resident is the resident memory of a process in bytes, 0 when it has ended.
func Resident(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// Reap kills what processes started below a directory of working directories left behind when their
// parent died, and removes their directories. It returns how many groups it killed.
func Reap(dir string) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+pidSuffix))
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var pid int
		var born uint64
		if _, err := fmt.Sscan(string(b), &pid, &born); err == nil && pid > 1 && leftover(pid, born) &&
			syscall.Kill(-pid, syscall.SIGKILL) == nil {
			n++
		}
		errs = append(errs, os.RemoveAll(strings.TrimSuffix(f, pidSuffix)), os.Remove(f))
	}
	return n, errors.Join(errs...)
}

// leftover tells whether a group can still be that of the process: a pid is not given out again while
// a group has it, so only a leader born at another time makes it somebody else's.
func leftover(pid int, born uint64) bool {
	st, err := readStat(pid)
	return err != nil || st.born == born
}
