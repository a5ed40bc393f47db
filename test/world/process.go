package world

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is one running process of a world.
type Process struct {
	PID, Parent int
	// Name is the base name of its executable: solo-kernel, solo-runner, or a native service's.
	Name string
	// RSS is its resident memory in bytes.
	RSS uint64
}

// Processes are all that run from this world's home: Solo's own, and native services.
func (w *World) Processes() ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	home, err := filepath.EvalSymlinks(w.o.Home)
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err != nil {
			continue // it has ended, or is the kernel's own
		}
		exe = strings.TrimSuffix(exe, " (deleted)")
		if !strings.HasPrefix(exe, home+"/") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 22 || f[0] == "Z" {
			continue
		}
		ppid, _ := strconv.Atoi(f[1])
		pages, _ := strconv.ParseUint(f[21], 10, 64)
		out = append(out, Process{pid, ppid, filepath.Base(exe), pages * uint64(os.Getpagesize())})
	}
	return out, nil
}

// Named are the processes of one executable.
func (w *World) Named(name string) (out []Process, err error) {
	ps, err := w.Processes()
	for _, p := range ps {
		if p.Name == name {
			out = append(out, p)
		}
	}
	return out, err
}

// Signal sends a signal to every process of one executable and returns how many there were.
func (w *World) Signal(name string, s syscall.Signal) (int, error) {
	ps, err := w.Named(name)
	if err != nil {
		return 0, err
	}
	for _, p := range ps {
		if err := syscall.Kill(p.PID, s); err != nil {
			return 0, fmt.Errorf("%s (%d): %w", name, p.PID, err)
		}
	}
	return len(ps), nil
}
