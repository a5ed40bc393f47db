// Package gateway is the component that speaks gRPC to the world: solo.v1.SoloKernel with
// reflection and health. It has no authority. For each handle that is presented it opens a bus
// connection as that handle, and everything it does for a caller it does there.
//
// It promises: no call is answered from a cache of decisions, the bus and the components decide
// each one; a revoked handle's calls under way fail and its connection is gone when the bus
// cuts it; a handle is in no log, error or metric; queues, connections, messages and rates are
// bounded, and a slow client holds up nobody else.
package gateway

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/gateway/internal/front"
	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/gateway/internal/kernel"
	"github.com/solo-os/solo/gateway/internal/listen"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

const (
	// maxMessage leaves room for 4 MiB of inline code and what comes with it.
	maxMessage = 6 << 20
	// maxStreams bounds the calls under way on one client connection.
	maxStreams = 256
)

// Command is the program solo-gateway.
func Command() daemon.Command {
	var cfg Config
	return daemon.Command{
		Component: subject.Gateway,
		Summary:   "speaks gRPC to the world and makes each call on the bus as the handle that came with it",
		Flags:     func(fs *flag.FlagSet, getenv func(string) string) { cfg.flags(fs, getenv) },
		Run: func(ctx context.Context, p *daemon.Process) error {
			cfg.Listen = p.Boot.GetListen()["grpc"]
			return Run(ctx, cfg, Options{
				BusAddr: p.Boot.GetNatsAddr(), Log: p.Log, Metrics: p.Metrics,
				Live: func(id string) bool { return p.Table.Live(id) == gate.Allowed },
				Refused: func(id, place string, slowed bool) {
					reason := p.Table.Live(id).String()
					if slowed {
						reason = "TOO_MANY"
					}
					if id == "" || reason == gate.Unknown.String() {
						id = "-" // anybody can make keys that nobody knows: they are counted together
					}
					p.Audit.Count(id, "present", place, reason)
				},
				Ready: func(ctx context.Context, addr string) error {
					return p.Ready(ctx, map[string]string{"grpc": addr})
				},
			})
		},
	}
}

// Options of Run: what surrounds a gateway.
type Options struct {
	// BusAddr is host:port of the bus.
	BusAddr string
	// Live tells of a public key whether its capability lives, as far as this process knows.
	Live func(id string) bool
	// Refused hears of handles refused by what this process knows alone; see holder.Options. May be nil.
	Refused func(id, place string, slowed bool)
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Ready is told the address once calls are answered.
	Ready func(ctx context.Context, addr string) error
}

// Run serves until ctx ends, then lets calls finish for Config.Drain.
func Run(ctx context.Context, cfg Config, o Options) error {
	cfg = cfg.withDefaults()
	if cfg.Listen == "" {
		return errors.New("no gRPC address to listen on")
	}
	t, err := cfg.tls()
	if err != nil {
		return err
	}
	creds := insecure.NewCredentials()
	if t != nil {
		creds = credentials.NewTLS(t)
	}
	pool := holder.NewPool(holder.Options{
		Addr: o.BusAddr, Max: cfg.Connections, Idle: cfg.Idle,
		Rate: cfg.HolderRate, Concurrency: cfg.HolderConcurrency, RefusalRate: cfg.RefusalRate, Live: o.Live, Refused: o.Refused,
	})
	defer pool.Close()
	l, err := listen.Listen(ctx, cfg.Listen, listen.Options{})
	if err != nil {
		return fmt.Errorf("gRPC: %w", err)
	}
	f, err := front.New(pool, l, o.Log, o.Metrics)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	srv := grpc.NewServer(
		grpc.Creds(creds),
		grpc.InTapHandle(f.Tap), grpc.UnaryInterceptor(f.Unary), grpc.StreamInterceptor(f.Stream),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	draining := make(chan struct{})
	solov1.RegisterSoloKernelServer(srv, kernel.New(o.Log, draining))
	hs := health.NewServer()
	hs.SetServingStatus(solov1.SoloKernel_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(srv, hs)
	reflection.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	end := func() error {
		hs.Shutdown()
		close(draining)
		stopped := make(chan struct{})
		go func() { srv.GracefulStop(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(cfg.Drain):
			srv.Stop()
			<-stopped
		}
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // told to end before it had begun
			return err
		}
		return nil
	}
	if err := o.Ready(ctx, l.Addr().String()); err != nil {
		return errors.Join(err, end())
	}
	o.Log.Info("ready", "grpc", l.Addr().String(), "tls", t != nil)
	select {
	case err := <-served:
		close(draining)
		return fmt.Errorf("gRPC ended by itself: %w", err)
	case <-ctx.Done():
		return end()
	}
}
