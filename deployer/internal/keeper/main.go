package keeper

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/deployer/internal/helper"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// lastFlush bounds the flush before the process ends.
const lastFlush = 5 * time.Second

// Main runs the keeper process and returns its exit code: 0 after a clean end, 1 after a failure, 2
// for misuse.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return helper.Main(ctx, helper.Command{Name: "keeper", Summary: "holds the state of a node's services", Run: Run}, args, stdin, stdout, stderr)
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
	wg.Go(func() { s.deployers.Watch(ctx, log, cancel) })
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
