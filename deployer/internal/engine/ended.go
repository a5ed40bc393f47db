package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/tetratelabs/wazero/sys"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
)

// ended marks a reactor dead and says why, as the fault of the call that it died in. It is called at
// most once for each, because a dead instance takes no calls. A command runs anew with the next call.
func (in *Instance) ended(ctx context.Context, err error) *fault.Error {
	c := &instance.Crash{Kind: "trap", Message: "the guest trapped", Trace: logline.Clean(err.Error())}
	f := fault.New(codes.Internal, fault.ReasonInstanceCrashed, "")
	exit, exited := errors.AsType[*sys.ExitError](err)
	_ = in.stderr.Close()
	text := in.tail.String()
	mem := in.mem.Load()
	switch {
	case ctx.Err() != nil && (!exited || exit.ExitCode() >= sys.ExitCodeDeadlineExceeded):
		f = notStarted(ctx.Err())
		c.Kind, c.Message = "deadline", "the call did not end in time and was stopped"
		if errors.Is(ctx.Err(), context.Canceled) {
			c.Kind, c.Message = "killed", "the call was stopped"
		}
		f.Message = c.Message
	case mem != nil && mem.refused.Load():
		c.Kind, c.Message = "memory", "the guest needed more memory than its limit"
		f = fault.New(codes.ResourceExhausted, fault.ReasonMemoryLimit, "").Final().
			Next("raise limits.memory in the manifest")
	case exited:
		c.Kind, c.Message = "exit", "the guest exited with "+codeText(exit.ExitCode())
	case logline.Dying(text):
		c.Message = firstLine(text)
	default:
		c.Message = "the guest trapped: " + firstLine(err.Error())
	}
	if text != "" {
		c.Trace = text
		if !exited {
			c.Trace += "\n" + logline.Clean(err.Error())
		}
	}
	if f.Message == "" {
		f.Message = c.Message
	}
	if mem != nil {
		c.MemoryBytes = mem.size.Load()
	}
	if in.module.Info.Kind == inspect.Reactor {
		in.crash.Store(c)
		close(in.done)
	}
	return f.Because(c)
}

// notStarted is the fault of a call whose time ran out.
func notStarted(err error) *fault.Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the call's deadline has passed")
	}
	return fault.New(codes.Unavailable, fault.ReasonUnavailable, "the call was stopped before it ended")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return logline.Clean(line)
}
