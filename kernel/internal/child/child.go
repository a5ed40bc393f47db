// Package child runs one component as a process: its identity goes down a pipe that stays open
// for its life, so that it ends when the kernel does; it is ready when it says so on the bus;
// and it is killed when it stops answering. The pipe is standard input; what it writes to
// standard output and error goes to the kernel's.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/encoding/protodelim"
)

const (
	// readyTimeout bounds a start.
	readyTimeout = 20 * time.Second
	// healthEvery and healthTimeout are how often and how long a component is asked for a sign
	// of life; misses in a row end it.
	healthEvery   = 500 * time.Millisecond
	healthTimeout = time.Second
	misses        = 4
)

// Options of a component.
type Options struct {
	// Path of the executable.
	Path string
	// Boot is what the component is told.
	Boot *kernelv1.ComponentBoot
	// Env is its whole environment.
	Env []string
	// Output takes what it writes.
	Output io.Writer
	Log    *slog.Logger
	// Ready delivers one value when it says that it is ready.
	Ready <-chan map[string]string
	// Alive asks for a sign of life; an error is a miss.
	Alive func(ctx context.Context) error
	// Drain, if not nil, asks for a planned end before the process is told to stop.
	Drain func(ctx context.Context) error
	// Gone is called once, after it has ended and before Done is closed.
	Gone func()
}

// Component is a running component.
type Component struct {
	o    Options
	cmd  *exec.Cmd
	pipe io.Closer
	done chan struct{}
	err  error
}

// Start returns when the component is ready; otherwise nothing of it is left.
func Start(ctx context.Context, o Options) (*Component, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(o.Path)
	cmd.Env = o.Env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, o.Output, o.Output
	cmd.WaitDelay = time.Second
	// A group of its own: a terminal's Ctrl-C is for the kernel, which stops all in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = r.Close() // the child has its own
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	c := &Component{o: o, cmd: cmd, pipe: w, done: make(chan struct{})}
	go c.wait()
	if _, err := protodelim.MarshalTo(w, o.Boot); err != nil {
		c.kill()
		return nil, fmt.Errorf("it ended before it took its identity: %w", err)
	}
	late := time.NewTimer(readyTimeout)
	defer late.Stop()
	select {
	case <-o.Ready:
	case <-c.done:
		return nil, fmt.Errorf("it ended before it was ready: %w", c.why())
	case <-late.C:
		c.kill()
		return nil, fmt.Errorf("it was not ready after %s", readyTimeout)
	case <-ctx.Done():
		c.kill()
		return nil, ctx.Err()
	}
	go c.watch()
	return c, nil
}

// PID is the process id.
func (c *Component) PID() int { return c.cmd.Process.Pid }

// Done is closed when the process has ended and its identity is void.
func (c *Component) Done() <-chan struct{} { return c.done }

// Err is why it ended; valid after Done.
func (c *Component) Err() error { return c.err }

// Stop asks the component to end, and kills it when ctx ends.
func (c *Component) Stop(ctx context.Context) {
	if c.o.Drain != nil {
		if err := c.o.Drain(ctx); err != nil {
			c.o.Log.Warn("a component could not be asked to drain", "child", c.o.Boot.GetComponent(), "error", err)
		}
	}
	// A process that has ended needs no signal. os.Process holds a pidfd, so this cannot reach another.
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-ctx.Done():
		c.o.Log.Warn("a component did not end in time and is killed", "child", c.o.Boot.GetComponent())
		c.kill()
	}
}

// Kill ends the component at once, without waiting for its end. It has a pidfd, so this cannot reach another.
func (c *Component) Kill() {
	c.o.Log.Error("a component hangs and is killed", "child", c.o.Boot.GetComponent(), "pid", c.PID())
	_ = c.cmd.Process.Kill() // it may have ended by itself
}

func (c *Component) why() error {
	if c.err == nil {
		return errors.New("exit code 0")
	}
	return c.err
}

func (c *Component) kill() {
	_ = c.cmd.Process.Kill() // it may have ended by itself
	<-c.done
}

func (c *Component) wait() {
	c.err = c.cmd.Wait()
	_ = c.pipe.Close() // the reader is gone
	if c.o.Gone != nil {
		c.o.Gone()
	}
	close(c.done)
}

// watch kills the component when it does not answer any more.
func (c *Component) watch() {
	t := time.NewTicker(healthEvery)
	defer t.Stop()
	for missed := 0; ; {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
		err := c.o.Alive(ctx)
		cancel()
		if err == nil {
			missed = 0
			continue
		}
		if missed++; missed < misses {
			continue
		}
		c.o.Log.Error("a component gives no sign of life and is killed", "child", c.o.Boot.GetComponent(), "pid", c.PID(), "error", err)
		c.kill()
		return
	}
}
