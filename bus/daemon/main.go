package daemon

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/encoding/protodelim"
)

// Version of Solo, the same in every binary.
const Version = "0.1.0"

// Command is a component's program.
type Command struct {
	// Component is its name in subjects and logs; the binary is solo-<component>.
	Component string
	// Summary is one sentence for --help.
	Summary string
	// Flags adds the component's own flags; each has a SOLO_* variable as its default. May be nil.
	Flags func(fs *flag.FlagSet, getenv func(string) string)
	// Run works until ctx ends, then drains and returns. It calls p.Ready once it does its work.
	Run func(ctx context.Context, p *Process) error
}

// Main runs a component and returns its exit code: 0 after a clean end, 1 after a failure, 2
// for misuse. The boot message is read from stdin, which stays open for the component's life.
func Main(ctx context.Context, c Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("solo-"+c.Component, flag.ContinueOnError)
	fs.SetOutput(stderr)
	version := fs.Bool("version", false, "print the version and exit")
	if c.Flags != nil {
		c.Flags(fs, os.Getenv)
	}
	fs.Usage = func() {} // what is wrong is said alone; help is printed when it is asked for
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "solo-%s: %s\n\nThe kernel starts it and hands it its identity on standard input; it is not started by hand.\n\nFlags:\n", c.Component, c.Summary)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "see solo-%s --help\n", c.Component)
		return 2
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "solo-%s: unexpected argument %q; see --help\n", c.Component, fs.Arg(0))
		return 2
	case *version:
		fmt.Fprintf(stdout, "solo-%s %s\n", c.Component, Version)
		return 0
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	boot := &kernelv1.ComponentBoot{}
	in := bufio.NewReader(stdin)
	if err := protodelim.UnmarshalFrom(in, boot); err != nil {
		fmt.Fprintf(stderr, "solo-%s: no identity on standard input (%v): the kernel starts components, see solo-kernel --help\n", c.Component, err)
		return 2
	}
	log := NewLogger(stderr, boot.GetLogLevel()).With("component", c.Component, "node", boot.GetNode())
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	gone := make(chan struct{})
	go func() { // ends with the process: a read from a pipe cannot be cancelled
		_, _ = io.Copy(io.Discard, in)
		log.Warn("the kernel is gone")
		drain()
		close(gone)
	}()
	p, err := Connect(ctx, boot, log, drain)
	if err != nil {
		log.Error("cannot start", "error", err)
		return 1
	}
	defer p.Close()
	go func() { // ends with the process
		<-gone
		p.Conn.Close() // the bus went with the kernel: nothing may wait for it
	}()
	if err := c.Run(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
		select {
		case <-gone: // what fails now fails for want of the kernel
			log.Debug("ended", "error", err)
			return 0
		default:
		}
		log.Error("ended", "error", err)
		return 1
	}
	return 0
}

// NewLogger writes JSON lines at a level: debug, info, warn or error; info when it is empty or
// unknown. An error is written as its text and, for a fault, the cause that its client does not
// see.
func NewLogger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: errorText}))
}

func errorText(_ []string, a slog.Attr) slog.Attr {
	v := a.Value.Any()
	if v == nil && a.Key == "error" {
		return slog.Attr{} // no error is nothing to tell
	}
	err, ok := v.(error)
	if !ok {
		return a
	}
	f, isFault := errors.AsType[*fault.Error](err)
	if isFault && f == nil {
		return slog.String(a.Key, "none")
	}
	text := err.Error()
	if isFault && f.Unwrap() != nil {
		text += " (" + f.Unwrap().Error() + ")"
	}
	return slog.String(a.Key, text)
}
