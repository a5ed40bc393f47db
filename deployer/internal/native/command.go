package native

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// Command is an instance that runs the executable once a call: the operation after its arguments, the
// payload on stdin, the reply on stdout, a non-zero exit an error with what it said on stderr. One
// call runs at a time.
type Command struct {
	host *Host
	cfg  Config
	cpu  atomic.Int64
	done chan struct{} // never closed: each call runs a fresh process

	turn sync.Mutex // held while a call runs

	mu      sync.Mutex // guards what follows
	running *process
	closed  bool
}

// NewCommand checks the executable and makes the instance; nothing runs until a call.
func (h *Host) NewCommand(cfg Config) (*Command, error) {
	if err := prepare(cfg); err != nil {
		return nil, err
	}
	return &Command{host: h, cfg: cfg, done: make(chan struct{})}, nil
}

// Call runs the executable.
func (in *Command) Call(ctx context.Context, r instance.Request) ([]byte, error) {
	in.turn.Lock()
	defer in.turn.Unlock()
	if r.Kind != abi.KindCall {
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "a command keeps nothing between calls to save or restore")
	}
	if ctx.Err() != nil {
		return nil, stopped(ctx, nil)
	}
	cmd := exec.Command(in.cfg.Path, append(append([]string{}, in.cfg.Args...), r.Op)...)
	out := &instance.Reply{Max: abi.MaxPayload}
	cmd.Stdin, cmd.Stdout = bytes.NewReader(r.Payload), out
	p, err := in.begin(cmd)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.end(0)
	}
	in.mu.Lock()
	in.running = nil
	in.mu.Unlock()
	if s := cmd.ProcessState; s != nil {
		in.cpu.Add(int64(s.UserTime() + s.SystemTime()))
	}
	return in.answer(ctx, p, out)
}

func (in *Command) begin(cmd *exec.Cmd) (*process, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil, fault.Unavailable(0, "the instance has ended").Because(instance.ErrEnded)
	}
	p, err := in.host.run(cmd, in.cfg, "")
	in.running = p
	return p, err
}

func (in *Command) answer(ctx context.Context, p *process, out *instance.Reply) ([]byte, error) {
	c := p.crashed()
	exit, exited := errors.AsType[*exec.ExitError](p.err)
	switch {
	case c.Kind == "memory":
		return nil, crashFault(c)
	case ctx.Err() != nil:
		return nil, stopped(ctx, c)
	case c.Kind == "killed":
		return nil, crashFault(c)
	case exited:
		text := c.Trace
		if text == "" {
			text = "the command exited with status " + strconv.Itoa(exit.ExitCode())
		}
		return nil, fault.New(codes.Unknown, fault.ReasonServiceError, "%s", text).With("exit_code", strconv.Itoa(exit.ExitCode()))
	case out.Over() > 0:
		return nil, fault.New(codes.OutOfRange, fault.ReasonTooLarge, "the reply has %d bytes; the bound is %d", out.Over(), abi.MaxPayload)
	}
	return out.Bytes(), nil
}

func stopped(ctx context.Context, c *instance.Crash) error {
	f := fault.New(codes.Unavailable, fault.ReasonUnavailable, "the call was stopped before it ended")
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		f = fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the call did not end in time and was stopped")
	}
	if c != nil {
		c.Kind, c.Message = "deadline", f.Message
		f = f.Because(c)
	}
	return f
}

// Usage measures the running call's process, and all processor time before.
func (in *Command) Usage() instance.Usage {
	u := instance.Usage{CPU: time.Duration(in.cpu.Load())}
	in.mu.Lock()
	p := in.running
	in.mu.Unlock()
	if p == nil {
		return u
	}
	if st, err := readStat(p.pid); err == nil && st.born == p.born {
		u.MemoryBytes, u.CPU = p.memory(), u.CPU+st.cpu
	}
	return u
}

// Done is never closed.
func (in *Command) Done() <-chan struct{} { return in.done }

// Crash is always nil: a run's end is in its call's error.
func (in *Command) Crash() *instance.Crash { return nil }

// Pid is the running call's process, or this one between calls.
func (in *Command) Pid() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.running != nil {
		return in.running.pid
	}
	return os.Getpid()
}

// Close ends the running call.
func (in *Command) Close(grace time.Duration) {
	in.mu.Lock()
	in.closed = true
	p := in.running
	in.mu.Unlock()
	if p != nil {
		p.end(grace)
	}
	in.turn.Lock()
	defer in.turn.Unlock()
	cleanup(in.cfg)
}

var _ instance.Instance = (*Command)(nil)
