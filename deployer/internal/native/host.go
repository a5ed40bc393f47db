// Package native runs static executables as instances: over HTTP on a Unix socket (StartHTTP), or one
// run per call (NewCommand).
//
// It promises: a child lives in a process group of its own, with nothing of this process's
// environment, and dies with this process; what it says is captured line by line in bounded memory;
// its resident memory, its children's included, is looked at every 50 ms and it is killed above its
// limit. What children a dead runner left behind, Reap kills. A process is known by its pid together
// with its start time.
package native

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/elfcheck"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
)

// sampleEvery is the time between two looks at memory.
const sampleEvery = 50 * time.Millisecond

// Config says how an executable runs.
type Config struct {
	// Path of the executable.
	Path string
	Args []string
	// Env is all of its environment but SOLO_*.
	Env map[string]string
	// Service and Instance name it to itself.
	Service, Instance string
	// Dir is its working directory, made empty at the start and removed at the end.
	Dir string
	// MemoryBytes is its ceiling of resident memory.
	MemoryBytes uint64
	// Keep lets it live above the ceiling.
	Keep bool
	// Output takes its lines; stream is stdout or stderr.
	Output func(stream, line string)
}

// Host starts processes from a thread that lives as long as it does, which the kernel takes for their
// parent, and watches their memory.
type Host struct {
	starts chan start
	stop   chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	procs  map[*process]struct{}
	closed bool
}

type start struct {
	cmd *exec.Cmd
	err chan error
}

// NewHost starts a host.
func NewHost() *Host {
	h := &Host{starts: make(chan start), stop: make(chan struct{}), procs: map[*process]struct{}{}}
	h.wg.Go(h.parent)
	h.wg.Go(h.sample)
	return h
}

// Close kills what still runs and ends the host.
func (h *Host) Close() {
	close(h.stop)
	h.mu.Lock()
	h.closed = true
	list := slices.Collect(maps.Keys(h.procs))
	h.mu.Unlock()
	for _, p := range list {
		p.signal(syscall.SIGKILL)
	}
	h.wg.Wait()
}

// errClosed says that nothing starts any more.
var errClosed = errors.New("the host of processes is closed")

// own runs f on a goroutine that Close waits for; false when it is too late for that.
func (h *Host) own(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Go(f)
	return true
}

// parent owns the thread, which lives until the host is closed or this process dies; then the kernel
// kills its children.
func (h *Host) parent() {
	runtime.LockOSThread()
	for {
		select {
		case s := <-h.starts:
			s.err <- s.cmd.Start()
		case <-h.stop:
			return
		}
	}
}

// process is one child.
type process struct {
	cmd   *exec.Cmd
	pid   int
	born  uint64 // start time in clock ticks
	limit uint64
	keep  bool
	done  chan struct{} // closed once it has been waited for
	err   error         // of Wait, once done
	out   []*logline.Writer
	tail  *logline.Tail
	begun time.Time

	mu     sync.Mutex // guards what follows
	rss    uint64
	over   bool
	killed bool
}

// run starts a child whose cmd has Path, Args and the pipes it needs.
func (h *Host) run(cmd *exec.Cmd, cfg Config, listen string) (*process, error) {
	cmd.Dir = cfg.Dir
	cmd.Env = environment(cfg, listen)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	p := &process{cmd: cmd, limit: cfg.MemoryBytes, keep: cfg.Keep, done: make(chan struct{}), tail: &logline.Tail{}, begun: time.Now()}
	line := func(stream string) *logline.Writer {
		w := logline.NewWriter(func(l string) {
			if stream == "stderr" {
				p.tail.Add(l)
			}
			cfg.Output(stream, l)
		})
		p.out = append(p.out, w)
		return w
	}
	if cmd.Stdout == nil {
		cmd.Stdout = line("stdout")
	}
	cmd.Stderr = line("stderr")
	if err := h.start(cmd); err != nil {
		return nil, startFault(err)
	}
	p.pid = cmd.Process.Pid
	_ = unix.Prlimit(p.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // it may be gone already
	if st, err := readStat(p.pid); err == nil {
		p.born = st.born
	}
	_ = os.WriteFile(filepath.Join(filepath.Dir(cfg.Dir), filepath.Base(cfg.Dir)+pidSuffix), fmt.Appendf(nil, "%d %d\n", p.pid, p.born), 0o600)
	h.mu.Lock()
	h.procs[p] = struct{}{}
	h.mu.Unlock()
	if !h.own(func() { h.wait(p) }) { // Close may not have seen it
		p.signal(syscall.SIGKILL)
		h.wait(p)
		return nil, errClosed
	}
	return p, nil
}

// start hands the command to the parent thread. An executable that another process was just writing
// is briefly busy: a descriptor of it may have leaked into a child between fork and exec.
func (h *Host) start(cmd *exec.Cmd) error {
	for try := 0; ; try++ {
		s := start{cmd, make(chan error, 1)}
		select {
		case h.starts <- s:
		case <-h.stop:
			return errClosed
		}
		err := <-s.err
		if !errors.Is(err, syscall.ETXTBSY) || try == 20 {
			return err
		}
		again := exec.Command(cmd.Path, cmd.Args[1:]...)
		again.Dir, again.Env, again.SysProcAttr, again.WaitDelay = cmd.Dir, cmd.Env, cmd.SysProcAttr, cmd.WaitDelay
		again.Stdin, again.Stdout, again.Stderr = cmd.Stdin, cmd.Stdout, cmd.Stderr
		*cmd = *again
		time.Sleep(5 * time.Millisecond)
	}
}

func startFault(err error) error {
	if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.EACCES) {
		return fault.New(codes.InvalidArgument, fault.ReasonBinaryInvalid, "the executable cannot be run here: %s", cause(err)).Because(err)
	}
	return fault.New(codes.Internal, fault.ReasonStartFailed, "the process could not be started: %s", cause(err)).Because(err)
}

func cause(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return "an internal error"
}

// wait reaps the child and everything left in its group.
func (h *Host) wait(p *process) {
	p.err = p.cmd.Wait()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // its children, if any
	for _, w := range p.out {
		_ = w.Close() // delivers an unfinished line; it cannot fail
	}
	h.mu.Lock()
	delete(h.procs, p)
	h.mu.Unlock()
	close(p.done)
}

// signal sends to the whole group, as long as its leader has not been reaped.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	_ = syscall.Kill(-p.pid, s) // it may just have ended
}

// told says whether the child was told to end.
func (p *process) told() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// end asks the child to end and kills it after the grace period.
func (p *process) end(grace time.Duration) {
	if grace > 0 {
		p.signal(syscall.SIGTERM)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-p.done:
			return
		case <-t.C:
		}
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// sample looks at every child's memory.
func (h *Host) sample() {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-t.C:
		}
		h.mu.Lock()
		list := slices.Collect(maps.Keys(h.procs))
		h.mu.Unlock()
		for _, p := range list {
			p.look()
		}
	}
}

func (p *process) look() {
	rss := treeRSS(p.pid)
	p.mu.Lock()
	p.rss = rss
	kill := rss > p.limit && !p.keep && !p.over
	p.over = p.over || kill
	p.mu.Unlock()
	if kill {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may just have ended
	}
}

// memory returns the last sample, or a fresh one before the first.
func (p *process) memory() uint64 {
	p.mu.Lock()
	rss := p.rss
	p.mu.Unlock()
	if rss == 0 {
		rss = treeRSS(p.pid)
	}
	return rss
}

func environment(cfg Config, listen string) []string {
	env := make([]string, 0, len(cfg.Env)+3)
	for k, v := range cfg.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	env = append(env, "SOLO_SERVICE="+cfg.Service, "SOLO_INSTANCE="+cfg.Instance)
	if listen != "" {
		env = append(env, "SOLO_LISTEN="+listen)
	}
	return env
}

// prepare makes the working directory, and the executable executable.
func prepare(cfg Config) error {
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(cfg.Path)
	if err != nil {
		return fault.New(codes.NotFound, fault.ReasonArtifactNotFound, "the executable is not on this node").Because(err)
	}
	f, err := os.Open(cfg.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := elfcheck.Check(f, info.Size()); err != nil {
		return err
	}
	if info.Mode()&0o100 == 0 {
		return os.Chmod(cfg.Path, 0o500)
	}
	return nil
}

// cleanup removes what prepare and run made.
func cleanup(cfg Config) {
	_ = os.RemoveAll(cfg.Dir) // a leftover is emptied by the next start
	_ = os.Remove(cfg.Dir + pidSuffix)
}
