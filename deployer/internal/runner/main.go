package runner

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/solo-os/solo/bus/daemon"
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
	fs := flag.NewFlagSet("solo-runner", flag.ContinueOnError)
	fs.SetOutput(stderr)
	version := fs.Bool("version", false, "print the version and exit")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	fs.Usage = func() {
		fmt.Fprint(stderr, "solo-runner: hosts the instances of one namespace\n\nThe deployer starts it and hands it its identity on standard input; it is not started by hand.\n`solo-runner compile` validates and compiles a module, see `solo-runner compile -h`.\n\nFlags:\n")
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0:
		return 2
	case *version:
		fmt.Fprintln(stdout, "solo-runner", daemon.Version)
		return 0
	}
	boot, err := helper.ReadBoot(stdin)
	if err != nil {
		fmt.Fprintln(stderr, "solo-runner:", err)
		return 2
	}
	ctx, stop := helper.Signals(ctx)
	defer stop()
	log := daemon.NewLogger(stderr, *level).With("component", "runner", "node", boot.GetNode(), "namespace", boot.GetNamespace())
	exe, err := os.Executable()
	if err == nil {
		err = confine()
	}
	if err == nil {
		err = Run(ctx, boot, exe, log)
	}
	if err != nil {
		log.Error("ended", "error", err)
		return 1
	}
	return 0
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
	wg.Go(func() {
		select {
		case <-s.deployers.Gone():
			log.Warn("no deployer; ending", "grace", helper.Grace)
			cancel()
		case <-ctx.Done():
		}
	})
	err = helper.Serve(ctx, boot.GetSocket(), func(g *grpc.Server) { nodev1.RegisterRunnerServer(g, s) })
	end, done := context.WithTimeout(context.WithoutCancel(ctx), 2*lastGrace)
	defer done()
	r.end(end, lastGrace)
	return errors.Join(err, r.Close())
}
