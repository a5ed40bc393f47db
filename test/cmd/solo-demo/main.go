// Command solo-demo tells what Solo does by doing it, and checks every value on the way.
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

	"github.com/solo-os/solo/test/story"
	"github.com/solo-os/solo/test/world"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("solo-demo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	bin := fs.String("bin", "bin", "folder of the binaries")
	examples := fs.String("examples", "examples", "folder of the examples")
	keep := fs.Bool("keep", false, "leave Solo running at the end")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	home, err := os.MkdirTemp("", "solo-demo-")
	if err != nil {
		fmt.Fprintln(stderr, "solo-demo:", err)
		return 1
	}
	log, err := os.Create(filepath.Join(home, "kernel.log"))
	if err != nil {
		fmt.Fprintln(stderr, "solo-demo:", err)
		return 1
	}
	defer log.Close()
	w, err := world.New(world.Options{Bin: *bin, Home: home, Log: log})
	if err != nil {
		fmt.Fprintln(stderr, "solo-demo:", err)
		return 1
	}
	begin := time.Now()
	s := &story.Story{W: w, Examples: *examples, Out: stdout}
	err = s.Run(ctx)
	if err == nil && *keep {
		fmt.Fprintf(stdout, "\nSolo runs on. Its home is %s; try:\n  export SOLO_HOME=%s\n  %s ps\n  %s shutdown\n", home, home, filepath.Join(*bin, "solo"), filepath.Join(*bin, "solo"))
		return 0
	}
	if err == nil {
		err = s.End(ctx)
	}
	if err != nil {
		fmt.Fprintf(stderr, "\nFAILED: %v\nlogs: %s\n", err, log.Name())
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, kerr := w.KillAll(end); kerr != nil {
			fmt.Fprintln(stderr, "solo-demo:", kerr)
		}
		return 1
	}
	if err := os.RemoveAll(home); err != nil {
		fmt.Fprintln(stderr, "solo-demo:", err)
	}
	fmt.Fprintf(stdout, "\nThat was Solo, every value checked, in %s.\n", time.Since(begin).Round(100*time.Millisecond))
	return 0
}
