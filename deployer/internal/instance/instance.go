// Package instance holds the words that a runner and the hosts of guests share: what an instance is
// asked, what it uses and how it ends.
package instance

import (
	"context"
	"errors"
	"time"
)

// ErrEnded is the cause of the fault of a call that never began, because the instance had ended
// before it: another may take it.
var ErrEnded = errors.New("the instance had ended before the call")

// Request is one message for an instance.
type Request struct {
	// Kind is one of the guest ABI's kinds; only WASM reactors know more than a call.
	Kind    uint32
	Op      string
	Payload []byte
	// Caller is the capability id behind the call.
	Caller string
}

// Usage is what an instance has used so far.
type Usage struct {
	// MemoryBytes is what it holds now: linear memory of a guest, resident memory of a process.
	MemoryBytes uint64
	// CPU is processor time since its start.
	CPU time.Duration
}

// Crash tells how an instance, or one run of a command, ended. It is the cause of the fault that the
// call it died in returns.
type Crash struct {
	// Kind is trap, deadline, memory, exit or killed.
	Kind    string
	Message string
	// Trace is a stack or what the instance said last, where there is something.
	Trace string
	// MemoryBytes is what it held at the end.
	MemoryBytes uint64
}

// Error returns the message.
func (c *Crash) Error() string { return c.Message }

// Instance is one running copy of a service's code. It is safe for concurrent use.
type Instance interface {
	// Call answers one message or returns a fault.Error, whose cause is a *Crash when the call ended
	// the instance or its own run of a command.
	Call(ctx context.Context, r Request) ([]byte, error)
	// Usage measures, also while calls run.
	Usage() Usage
	// Done is closed once the instance is dead and must be replaced.
	Done() <-chan struct{}
	// Crash says why; nil while it lives and after Close.
	Crash() *Crash
	// Pid is the process that it runs in.
	Pid() int
	// Close ends the instance and frees what it holds. A process is asked first and killed after the
	// grace period; calls that still run fail.
	Close(grace time.Duration)
}
