// Command solo-bench prints Solo's figures beside their baselines and what they should reach.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/solo-os/solo/test/bench"
	"github.com/solo-os/solo/test/world"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("solo-bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	bin := fs.String("bin", "bin", "folder of the binaries")
	examples := fs.String("examples", "examples", "folder of the examples")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if err := measure(ctx, *bin, *examples, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "solo-bench:", err)
		return 1
	}
	return 0
}

func measure(ctx context.Context, bin, examples string, stdout, stderr io.Writer) (err error) {
	home, err := os.MkdirTemp("", "solo-bench-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(home, "kernel.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	w, err := world.New(world.Options{Bin: bin, Home: home, Log: log})
	if err != nil {
		return err
	}
	b := &bench.Bench{W: w, Examples: examples}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		if serr := b.W.Stop(end); err == nil {
			err = serr
		}
		if _, kerr := w.KillAll(end); kerr != nil && err == nil {
			err = kerr
		}
		if err == nil {
			err = os.RemoveAll(home)
		}
	}()
	if err := b.Run(ctx, func(s string) { fmt.Fprintln(stderr, "measuring:", s) }); err != nil {
		return fmt.Errorf("%w (log: %s)", err, log.Name())
	}
	return b.Report.Print(stdout)
}
