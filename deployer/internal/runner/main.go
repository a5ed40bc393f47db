package runner

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/helper"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// lastGrace is what running calls are given when the process is told to end without a Drain.
const lastGrace = 5 * time.Second

// Main runs the runner process, or its `compile` subcommand, and returns the exit code: 0 after a
// clean end, 1 after a failure, 2 for misuse.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "compile" {
		return engine.CompileMain(ctx, args[1:], stdin, stdout, stderr)
	}
	return helper.Main(ctx, helper.Command{
		Name: "runner", Summary: "hosts the instances of one namespace\n\n`solo-runner compile` validates and compiles a module, see `solo-runner compile -h`.",
		Run: func(ctx context.Context, boot *nodev1.RunnerBoot, log *slog.Logger) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			if err := confine(); err != nil {
				return err
			}
			return Run(ctx, boot, exe, log)
		},
	}, args, stdin, stdout, stderr)
}

// confine sets what all that runs here inherits.
func confine() error {
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// Run serves until ctx ends, a deployer drains it, or none has been there for helper.Grace.
func Run(ctx context.Context, boot *nodev1.RunnerBoot, exe string, log *slog.Logger) error {
	r, err := New(ctx, boot, exe, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.balance(ctx) })
	s := &Server{runner: r, deployers: helper.NewDeployers(helper.Grace), done: cancel}
	wg.Go(func() { s.deployers.Watch(ctx, log, cancel) })
	err = helper.Serve(ctx, boot.GetSocket(), func(g *grpc.Server) { nodev1.RegisterRunnerServer(g, s) })
	end, done := context.WithTimeout(context.WithoutCancel(ctx), 2*lastGrace)
	defer done()
	r.end(end, lastGrace)
	return errors.Join(err, r.Close())
}
