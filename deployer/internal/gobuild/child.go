package gobuild

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
)

// maxOutput bounds what is kept of a child's output.
const maxOutput = 256 << 10

// limits of a build process.
type limits struct {
	wall   time.Duration
	memory uint64
	nice   int
}

// run executes the go command in a child of its own process group, without a network where the
// machine allows that, below limits, and returns what it printed. The group is killed with ctx.
func (b *Builder) run(ctx context.Context, l limits, dir string, env []string, args ...string) (output string, err error) {
	limited, cancel := context.WithTimeout(ctx, l.wall)
	defer cancel()
	var out bounded
	start := func(isolate bool) (*exec.Cmd, error) {
		cmd := exec.CommandContext(limited, b.o.Exe, append([]string{
			"build", "-memory", strconv.FormatUint(l.memory, 10), "-seconds", strconv.Itoa(4*int(l.wall/time.Second) + 1), "-nice", strconv.Itoa(l.nice), "--", b.goExe,
		}, args...)...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if isolate {
			noNetwork(cmd.SysProcAttr)
		}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = time.Second
		return cmd, cmd.Start()
	}
	// The death signal is sent when the thread that started the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, err := start(true)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		cmd, err = start(false)
	}
	if err != nil {
		return "", fault.Internal(err, "the build process cannot be started")
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	if limited.Err() != nil {
		ended(cmd.Process.Pid)
	}
	switch {
	case ctx.Err() != nil:
		return "", stopping(ctx.Err())
	case limited.Err() != nil:
		return "", fault.New(codes.InvalidArgument, fault.ReasonBuildFailed, "the build took longer than %s and was stopped", l.wall).
			AddField("code.files", "too large or too slow to compile")
	}
	return out.String(), err
}

// lastMoment is how long processes that were killed may take to be gone; where nobody reaps them, their
// group stays though they do nothing any more.
const lastMoment = 200 * time.Millisecond

// ended waits until nothing of a group that was killed in the middle of its work is left to write.
func ended(group int) {
	for end := time.Now().Add(lastMoment); syscall.Kill(-group, 0) == nil && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// noNetwork puts a child into a network namespace with nothing in it.
func noNetwork(a *syscall.SysProcAttr) {
	a.Cloneflags = syscall.CLONE_NEWNET
	if uid := os.Geteuid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
}

// ChildMain is the `build` subcommand: it limits this process and becomes the command that is
// named. It returns only when that fails.
func ChildMain(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("build", flag.ContinueOnError)
	fs.SetOutput(stderr)
	memory := fs.Uint64("memory", 0, "limit of a process's data in bytes; 0 is none")
	seconds := fs.Uint64("seconds", 0, "limit of a process's CPU time; 0 is none")
	nice := fs.Int("nice", 0, "scheduling priority, 0 to 19")
	if err := fs.Parse(args); err != nil || fs.NArg() == 0 {
		fmt.Fprintln(stderr, "usage: solo-deployer build [-memory BYTES] [-seconds N] [-nice N] -- GO ARGUMENT...; the deployer starts it")
		return 2
	}
	if err := become(*memory, *seconds, *nice, fs.Args()); err != nil {
		fmt.Fprintln(stderr, "build:", err)
		return 1
	}
	return 0
}

func become(memory, seconds uint64, nice int, argv []string) error {
	set := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 1 << 30, unix.RLIMIT_NOFILE: 1024}
	if memory > 0 {
		set[unix.RLIMIT_DATA] = memory
	}
	if seconds > 0 {
		set[unix.RLIMIT_CPU] = seconds
	}
	for r, v := range set {
		var have unix.Rlimit
		if err := unix.Getrlimit(r, &have); err != nil {
			return fmt.Errorf("limit %d: %w", r, err)
		}
		v = min(v, have.Max)
		if err := unix.Setrlimit(r, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("limit %d: %w", r, err)
		}
	}
	if nice > 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil {
			return fmt.Errorf("priority: %w", err)
		}
	}
	return syscall.Exec(argv[0], argv, os.Environ())
}

// bounded keeps the first maxOutput bytes written to it.
type bounded struct{ bytes.Buffer }

// Write never fails, so that the child is not stopped by its own words.
func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
