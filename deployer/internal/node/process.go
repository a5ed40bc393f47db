package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kinds of helper processes, as they stand in records and as roles at the fence.
const (
	kindRunner = "runner"
	kindKeeper = "keeper"
)

// record is what a deployer leaves for the next one about a helper process.
type record struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	PID       int    `json:"pid"`
	// Start is when the process started, in clock ticks since boot: a pid alone names nobody.
	Start uint64 `json:"start"`
	// Socket that it serves.
	Socket string `json:"socket"`
	// ID is the public key of its identity on the bus.
	ID string `json:"id"`
}

func (r record) file(run string) string {
	if r.Kind == kindKeeper {
		return filepath.Join(run, "helper-keeper.json")
	}
	return filepath.Join(run, "helper-runner-"+r.Namespace+".json")
}

func (r record) save(run string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := r.file(run) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, r.file(run))
}

// forget removes the traces of a helper that has ended, unless another has taken its place.
func (r record) forget(run string) {
	mine := false
	if now, err := readRecord(r.file(run)); err == nil && now.PID == r.PID && now.Start == r.Start {
		_ = os.Remove(r.file(run))
		mine = true
	}
	if mine || r.Kind == kindRunner { // the keeper's socket has one name for all of them
		_ = os.Remove(r.Socket)
	}
}

func readRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	if r.PID <= 1 || r.Start == 0 || (r.Kind != kindRunner && r.Kind != kindKeeper) {
		return r, fmt.Errorf("%s: names no process", path)
	}
	return r, nil
}

// startTime is when a process started; an error when there is none, or it is dead and only waits to
// be collected.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:]) // the name before it may hold anything
	if len(f) < 20 {
		return 0, errors.New("unreadable /proc entry")
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// alive tells whether the very process of a record runs.
func (r record) alive() bool {
	t, err := startTime(r.PID)
	return err == nil && t == r.Start
}

// signal sends a signal to the very process of a record, and to nobody who has its number now.
func (r record) signal(s syscall.Signal) error {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ENOSYS) {
		if !r.alive() {
			return os.ErrProcessDone
		}
		return syscall.Kill(r.PID, s)
	}
	if err != nil {
		return os.ErrProcessDone
	}
	defer unix.Close(fd)
	if !r.alive() { // checked while the descriptor holds the number
		return os.ErrProcessDone
	}
	return unix.PidfdSendSignal(fd, s, nil, 0)
}

// rss is the resident size of a process in bytes, 0 when it has ended.
func rss(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
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
