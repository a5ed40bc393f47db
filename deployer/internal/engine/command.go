package engine

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	"github.com/tetratelabs/wazero/sys"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// run starts a WASI command for one call: arguments and the operation, the payload on stdin, the
// reply on stdout, and a non-zero exit an error with what it said on stderr.
func (in *Instance) run(ctx context.Context, r instance.Request) ([]byte, error) {
	if r.Kind != abi.KindCall {
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "a WASI command keeps nothing between calls to save or restore")
	}
	out := &instance.Reply{Max: abi.MaxPayload}
	args := append(append([]string{"service"}, in.cfg.Args...), r.Op)
	c := in.moduleConfig().WithArgs(args...).WithStdin(bytes.NewReader(r.Payload)).WithStdout(out).WithStderr(in.stderr)
	err := in.guarded(ctx, func(ctx context.Context) error {
		mod, err := in.start(ctx, c)
		if err != nil {
			return err
		}
		_, err = mod.ExportedFunction("_start").Call(ctx)
		if exit, ok := errors.AsType[*sys.ExitError](err); ok && exit.ExitCode() == 0 {
			err = nil
		}
		return errors.Join(err, mod.Close(context.WithoutCancel(ctx)))
	})
	mem := in.mem.Load()
	defer func() {
		in.mem.Store(nil)
		if mem != nil {
			mem.release()
		}
	}()
	if exit, ok := errors.AsType[*sys.ExitError](err); ok && ctx.Err() == nil && exit.ExitCode() < sys.ExitCodeDeadlineExceeded &&
		(mem == nil || !mem.refused.Load()) {
		_ = in.stderr.Close()
		text := in.tail.String()
		if text == "" {
			text = "the command exited with " + codeText(exit.ExitCode())
		}
		return nil, serviceError(text).With("exit_code", strconv.FormatUint(uint64(exit.ExitCode()), 10))
	}
	if err != nil {
		return nil, in.ended(ctx, err)
	}
	if out.Over() > 0 {
		return nil, tooLarge(out.Over())
	}
	return out.Bytes(), nil
}

func codeText(code uint32) string { return "status " + strconv.FormatUint(uint64(code), 10) }
