package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/kernel/internal/home"
	"github.com/solo-os/solo/kernel/internal/supervise"
	"github.com/solo-os/solo/proto/subject"
	"golang.org/x/sys/unix"
)

// shutdownGrace is for everything together; what still runs then is killed.
const shutdownGrace = 30 * time.Second

// order is how components depend on each other: each needs those before it.
func order() []string {
	return []string{subject.Audit, subject.Capmgr, subject.Registry, subject.Resmon, subject.Deployer, subject.Gateway}
}

// Main runs a kernel and returns its exit code: 0 after a clean end, 1 after a failure, 2 for
// misuse.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := Parse(args, os.Getenv, stderr)
	switch {
	case errors.Is(err, errHelp):
		return 0
	case errors.Is(err, errVersion):
		fmt.Fprintf(stdout, "solo-kernel %s\n", daemon.Version)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "solo-kernel: %v; see --help\n", err)
		return 2
	}
	c.Banner = c.Banner || terminal(stderr)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	hurry, now := context.WithCancel(context.WithoutCancel(ctx))
	defer now()
	defer stop()
	over := make(chan struct{})
	defer close(over)
	go func() {
		for _, f := range []func(){stop, now} {
			select {
			case <-signals:
				f()
			case <-over:
				return
			}
		}
	}()
	if err := Run(ctx, hurry, c, stderr); err != nil {
		fmt.Fprintf(stderr, "solo-kernel: %v\n", err)
		return 1
	}
	return 0
}

// Run boots Solo and works until ctx ends, then shuts down in order, at once when hurry ends.
// The log goes to out as JSON lines; components inherit it.
func Run(ctx, hurry context.Context, c Config, out io.Writer) (err error) {
	begin := time.Now()
	log := daemon.NewLogger(out, c.LogLevel).With("component", subject.Kernel)
	// Handles pass through these processes: no memory image of any is left. All inherit it.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("memory images cannot be forbidden: %w", err)
	}
	h, err := home.Open(c.Home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := c.available(ctx); err != nil {
		return err
	}
	log = log.With("node", h.Node)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	k := &kernel{c: c, home: h, log: log, out: out, begin: begin, waiting: map[string]chan map[string]string{}, listen: map[string]string{}, children: map[string]member{}}
	k.grace.Store(int64(shutdownGrace))
	k.ctx, k.stop = ctx, stop
	if err := k.open(ctx); err != nil {
		return errors.Join(err, noteClosed(h, err))
	}
	defer k.close()
	specs := make([]supervise.Spec, 0, len(order()))
	for _, name := range order() {
		specs = append(specs, k.spec(name))
	}
	// No new work once the end has begun; what is under way goes on.
	defer context.AfterFunc(ctx, func() { k.fence.Open(false) })()
	limit, cancel := deadline(ctx, hurry, k.left)
	defer cancel()
	err = supervise.Run(ctx, limit, supervise.Options{Strategy: supervise.RestForOne, Log: log, Ready: k.ready, Down: k.down}, specs...)
	if errors.Is(err, supervise.ErrIntensity) {
		return fmt.Errorf("the components do not stay up: %w", err)
	}
	log.Info("stopped", "uptime", time.Since(begin).Round(time.Millisecond).String())
	return err
}

// terminal tells whether someone looks at out.
func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// deadline ends when hurry does, or a time after ctx has ended.
func deadline(ctx, hurry context.Context, left func() time.Duration) (context.Context, context.CancelFunc) {
	limit, cancel := context.WithCancel(hurry)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-limit.Done():
			return
		}
		t := time.NewTimer(left())
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-limit.Done():
		}
	})
	return limit, func() { cancel(); wg.Wait() }
}

// writeAddresses tells where Solo listens.
func writeAddresses(h *home.Home, addresses map[string]string) error {
	b, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	return home.WriteFile(h.Addresses(), append(b, '\n'))
}

func banner(out io.Writer, c Config, h *home.Home, a map[string]string, took time.Duration) {
	export := ""
	if c.Home != ".solo" {
		export = "  export SOLO_HOME=" + h.Dir + "\n"
	}
	fmt.Fprintf(out, `
Solo is ready after %s.
  gRPC     %s
  NATS     %s
  metrics  http://%s/metrics
  home     %s

Try, in another terminal:
%s  solo init hello
  solo deploy -f hello/manifest.yaml
  solo call demo/hello greet world

Ctrl-C stops it.

`, took.Round(time.Millisecond), a["grpc"], a["nats"], a["metrics"], h.Dir, export)
}
