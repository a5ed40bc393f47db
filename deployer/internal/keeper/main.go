package keeper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/deployer/internal/helper"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// lastFlush bounds the flush before the process ends.
const lastFlush = 5 * time.Second

// Main runs the keeper process and returns its exit code: 0 after a clean end, 1 after a failure, 2
// for misuse.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("solo-keeper", flag.ContinueOnError)
	fs.SetOutput(stderr)
	version := fs.Bool("version", false, "print the version and exit")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	fs.Usage = func() {
		fmt.Fprint(stderr, "solo-keeper: holds the state of a node's services\n\nThe deployer starts it and hands it its identity on standard input; it is not started by hand.\n\nFlags:\n")
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0:
		return 2
	case *version:
		fmt.Fprintln(stdout, "solo-keeper", daemon.Version)
		return 0
	}
	boot, err := helper.ReadBoot(stdin)
	if err != nil {
		fmt.Fprintln(stderr, "solo-keeper:", err)
		return 2
	}
	ctx, stop := helper.Signals(ctx)
	defer stop()
	log := daemon.NewLogger(stderr, *level).With("component", "keeper", "node", boot.GetNode())
	if err := Run(ctx, boot, log); err != nil {
		log.Error("ended", "error", err)
		return 1
	}
	return 0
}

// Run serves until ctx ends or no deployer has been there for helper.Grace, then brings what it can to
// the bucket. Without a seed in boot it keeps state on this node alone.
func Run(ctx context.Context, boot *nodev1.RunnerBoot, log *slog.Logger) error {
	s := &Server{deployers: helper.NewDeployers(helper.Grace), trouble: NewTroubles()}
	o := Options{Dir: boot.GetCacheDir(), Log: log, Trouble: func(service, message string) {
		log.Warn("state", "service", service, "message", message)
		s.trouble.Add(service, message)
	}}
	if boot.GetSeed() != "" {
		id, err := conn.ID(boot.GetSeed())
		if err != nil {
			return err
		}
		link := helper.NewLink(conn.Options{Addr: boot.GetNatsAddr(), Seed: boot.GetSeed(), Name: "keeper"}, log, nil)
		defer link.Close()
		s.id, s.move = id, link.Move
		o.Bucket = KV{Conn: func() *nats.Conn { nc, _ := link.Conn(); return nc }}
		first, cancel := context.WithTimeout(ctx, 2*time.Second)
		if _, _, err := link.Wait(first); err != nil {
			log.Warn("starting without the bus", "error", err)
		}
		cancel()
	}
	k, err := New(o)
	if err != nil {
		return err
	}
	defer k.Close()
	s.keeper = k
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-s.deployers.Gone():
			log.Warn("no deployer; ending", "grace", helper.Grace)
			cancel()
		case <-ctx.Done():
		}
	})
	if err := helper.Serve(ctx, boot.GetSocket(), func(g *grpc.Server) { nodev1.RegisterKeeperServer(g, s) }); err != nil {
		return err
	}
	end, done := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer done()
	if _, err := k.Flush(end, ""); err != nil {
		log.Warn("not everything reached the bucket; the journals have it", "error", err)
	}
	return nil
}
