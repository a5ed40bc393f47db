package helper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/solo-os/solo/bus/daemon"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// Command is a helper's program.
type Command struct {
	// Name is runner or keeper; the binary is solo-<name>.
	Name string
	// Summary is what --help says of it.
	Summary string
	// Run works until ctx ends or it has nothing left to do.
	Run func(ctx context.Context, boot *nodev1.RunnerBoot, log *slog.Logger) error
}

// Main runs a helper and returns its exit code: 0 after a clean end, 1 after a failure, 2 for misuse.
func Main(ctx context.Context, c Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("solo-"+c.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	version := fs.Bool("version", false, "print the version and exit")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	fs.Usage = func() {
		fmt.Fprintf(stderr, "solo-%s: %s\n\nThe deployer starts it and hands it its identity on standard input; it is not started by hand.\n\nFlags:\n", c.Name, c.Summary)
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0:
		return 2
	case *version:
		fmt.Fprintf(stdout, "solo-%s %s\n", c.Name, daemon.Version)
		return 0
	}
	boot, err := ReadBoot(stdin)
	if err != nil {
		fmt.Fprintf(stderr, "solo-%s: %v\n", c.Name, err)
		return 2
	}
	ctx, stop := Signals(ctx)
	defer stop()
	log := daemon.NewLogger(stderr, *level).With("component", c.Name, "node", boot.GetNode())
	if boot.GetNamespace() != "" {
		log = log.With("namespace", boot.GetNamespace())
	}
	if err := c.Run(ctx, boot, log); err != nil {
		log.Error("ended", "error", err)
		return 1
	}
	return 0
}
