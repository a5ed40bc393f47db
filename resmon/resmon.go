// Package resmon is the component that watches what services use: each second it asks the
// deployer for a sample of every instance, keeps the history (history: seconds for the last
// minute or two, minutes for six hours), tells the registry, decides what to do about limits
// (limits) and serves the metrics and health of the whole node on one address.
//
// It promises: at most one sample is asked for at a time and a slow deployer delays nothing
// else; a decision is carried out once, repeated only after a cool-down or when carrying it
// out failed; and the cardinality of what it serves is bounded: at most MaxLabelled services
// have series of their own, those beyond share one labelled `other`.
package resmon

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/resmon/internal/history"
	"github.com/solo-os/solo/resmon/internal/limits"
	"github.com/solo-os/solo/resmon/internal/scrape"
)

const (
	// defaultAddr is where metrics are served when the kernel names no address.
	defaultAddr  = "127.0.0.1:9090"
	drainTimeout = 3 * time.Second
	// sampleEvery is how often the node is measured.
	sampleEvery = time.Second
)

// Command is the program solo-resmon.
func Command() daemon.Command {
	open := false
	return daemon.Command{
		Component: subject.Resmon,
		Summary:   "measures what services use, decides about limits, serves the node's metrics and health",
		Flags: func(fs *flag.FlagSet, getenv func(string) string) {
			def, _ := strconv.ParseBool(getenv("SOLO_METRICS_PLAINTEXT")) // anything unreadable is no
			fs.BoolVar(&open, "plaintext-off-loopback", def, "serve metrics and health in plain text off loopback, to whoever reaches the address (SOLO_METRICS_PLAINTEXT)")
		},
		Run: func(ctx context.Context, p *daemon.Process) error { return run(ctx, p, open) },
	}
}

func run(ctx context.Context, p *daemon.Process, open bool) error {
	server, err := p.Server()
	if err != nil {
		return err
	}
	r, err := Open(Options{
		Conn: p.Conn, Peer: p.Peer, Table: p.Table, Log: p.Log, Metrics: p.Metrics,
		Addr: p.Boot.GetListen()["metrics"], PlaintextOffLoopback: open,
	})
	if err != nil {
		return err
	}
	defer r.Close()
	rpc.Handle(server, "usage", r.usage)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		server.Close(end)
	}()
	if err := p.Ready(ctx, map[string]string{"metrics": r.Addr()}); err != nil {
		return err
	}
	r.setReady()
	p.Log.Info("ready", "metrics", r.Addr())
	<-ctx.Done()
	return nil
}

// Options of a Resmon.
type Options struct {
	Conn  *nats.Conn
	Peer  rpc.Peer
	Table *gate.Table
	Log   *slog.Logger
	// Metrics is where the component's own series are registered.
	Metrics *prometheus.Registry
	// Addr is host:port of the metrics address; the default is 127.0.0.1:9090, port 0 picks one.
	Addr string
	// PlaintextOffLoopback allows an address off loopback.
	PlaintextOffLoopback bool
	// Every is how often the node is measured; 1 s when 0.
	Every time.Duration
}

// Resmon is the component without its process.
type Resmon struct {
	o        Options
	history  *history.History
	services *services
	series   *series
	scraper  *scrape.Scraper
	web      *web
	events   *nats.Subscription
	queue    chan limits.Decision
	counters history.Counters // the sampler's

	mu    sync.Mutex
	judge *limits.Judge // mu
	ready bool          // mu

	wg   sync.WaitGroup
	stop context.CancelFunc
}

// Open begins to measure and to serve metrics; Close ends it.
func Open(o Options) (*Resmon, error) {
	if o.Addr == "" {
		o.Addr = defaultAddr
	}
	if o.Every == 0 {
		o.Every = sampleEvery
	}
	if err := checkAddr(o.Addr, o.PlaintextOffLoopback); err != nil {
		return nil, err
	}
	r := &Resmon{o: o, history: history.New(), judge: limits.NewJudge(), queue: make(chan limits.Decision, 256)}
	r.services = newServices(o.Peer)
	r.series = newSeries(r.services.states)
	o.Metrics.MustRegister(r.series)
	r.scraper = scrape.New(scrape.Options{
		Conn: o.Conn, Components: o.Table.Components, Self: o.Peer.ID, Name: subject.Resmon, Own: o.Metrics, Healthy: r.healthy, Log: o.Log,
	})
	var err error
	if r.web, err = serve(o.Addr, r.scraper, r.isReady, o.Log); err != nil {
		return nil, err
	}
	if r.events, err = o.Conn.Subscribe(subject.EventAll, func(*nats.Msg) { r.services.changed() }); err != nil {
		r.web.close()
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.wg.Go(func() { r.sampler(run) })
	r.wg.Go(func() { r.enforcer(run) })
	return r, nil
}

// Addr is where metrics are served.
func (r *Resmon) Addr() string { return r.web.addr }

// Close ends everything that Open began.
func (r *Resmon) Close() {
	_ = r.events.Unsubscribe() // the connection may be gone already
	r.web.close()
	r.stop()
	r.wg.Wait()
}

func (r *Resmon) setReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
}

func (r *Resmon) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// healthy is this component's own health: without a lease it may decide nothing.
func (r *Resmon) healthy(context.Context) error {
	if !r.o.Table.Leased() {
		return fmt.Errorf("the gate's lease has run out")
	}
	return nil
}

// checkAddr refuses an address off loopback unless it was asked for by name.
func checkAddr(addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("metrics address %q: want host:port", addr)
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip.IsLoopback() || insecure {
		return nil
	}
	return fmt.Errorf("metrics address %q is not loopback and would be served in plain text to whoever reaches it: use 127.0.0.1, or set SOLO_METRICS_PLAINTEXT=true (--plaintext-off-loopback) to ask for it", addr)
}
