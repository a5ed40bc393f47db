// Package registry is the component that knows what is deployed: it is the only writer of the
// registrations (KV bucket `registry`) and of lifecycle events (stream `EVENTS`), and answers
// status, list, watch, resolve and nodes from memory.
//
// It promises: an answered put or delete is on disk and survives a restart of everything;
// writes to one service are in one order, its events are in the same order, and no answer is
// older than one given before. What runs at this moment is what deployers reported within the
// last 5 seconds, and is not durable. A watcher that does not read holds nobody up.
package registry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry/internal/feed"
	"github.com/solo-os/solo/services/registry/internal/live"
	"github.com/solo-os/solo/services/registry/internal/store"
	"google.golang.org/protobuf/proto"
)

const (
	loadTimeout  = 20 * time.Second
	drainTimeout = 5 * time.Second
	// heartbeatEvery is how often this node's entry in bucket `nodes` is renewed; it ends by
	// itself after 10 s.
	heartbeatEvery = 3 * time.Second
)

// Command is the program solo-registry.
func Command() daemon.Command {
	return daemon.Command{
		Component: subject.Registry,
		Summary:   "knows what is deployed and tells what happens to it",
		Run:       run,
	}
}

func run(ctx context.Context, p *daemon.Process) error {
	server, err := p.Server()
	if err != nil {
		return err
	}
	r, err := Open(ctx, Options{Conn: p.Conn, JS: p.JS, Table: p.Table, Log: p.Log, Metrics: p.Metrics, Node: p.Boot.GetNode()})
	if err != nil {
		return err
	}
	defer r.Close()
	r.Serve(server)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		server.Close(end)
	}()
	if err := p.Ready(ctx, nil); err != nil {
		return err
	}
	p.Log.Info("ready", "services", r.store.Len())
	<-ctx.Done()
	return nil
}

// Options of a Registry.
type Options struct {
	// Conn is the component's connection, JS the same for streams.
	Conn *nats.Conn
	JS   jetstream.JetStream
	// Table tells which grants are alive.
	Table   *gate.Table
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Node is the name of this node.
	Node string
	// Now is the clock for what is reported; time.Now when nil.
	Now func() time.Time
}

// Registry is the component without its process.
type Registry struct {
	o      Options
	store  *store.Store
	live   *live.Live
	outbox *feed.Outbox
	nodes  jetstream.KeyValue
	subs   []*nats.Subscription
	wg     sync.WaitGroup
	stop   context.CancelFunc
}

// Open loads what is registered and begins to follow measurements. ctx bounds the loading.
func Open(ctx context.Context, o Options) (*Registry, error) {
	load, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	kv, err := o.JS.KeyValue(load, stream.Registry)
	if err != nil {
		return nil, err
	}
	r := &Registry{o: o, live: live.New(o.Now)}
	if r.nodes, err = o.JS.KeyValue(load, stream.Nodes); err != nil {
		return nil, err
	}
	if r.store, err = store.Open(load, kv, o.Log); err != nil {
		return nil, err
	}
	sub, err := o.Conn.Subscribe(subject.Samples("*"), r.onSample)
	if err != nil {
		r.store.Close()
		return nil, err
	}
	r.subs = append(r.subs, sub)
	r.outbox = feed.NewOutbox(o.JS, o.Log, o.Metrics)
	o.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "solo_registered_services", Help: "Services registered, stopped ones included."},
		func() float64 { return float64(r.store.Len()) }))
	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	r.wg.Go(func() { r.outbox.Run(bg) })
	r.wg.Go(func() { r.heartbeat(bg) })
	return r, nil
}

// Close ends everything that Open began; events that were added are published first.
func (r *Registry) Close() {
	for _, s := range r.subs {
		_ = s.Unsubscribe() // the connection may be gone already
	}
	r.stop()
	r.wg.Wait()
	r.store.Close()
}

// Serve adds the registry's operations to a server.
func (r *Registry) Serve(s *rpc.Server) {
	rpc.Handle(s, "status", r.status)
	rpc.Handle(s, "list", r.list)
	rpc.Handle(s, "resolve", r.resolve)
	rpc.Handle(s, "nodes", r.listNodes)
	rpc.HandleStream(s, "watch", r.watch)
	rpc.Handle(s, "put", r.put)
	rpc.Handle(s, "get", r.get)
	rpc.Handle(s, "all", r.all)
	rpc.Handle(s, "delete", r.delete)
	rpc.Handle(s, "report", r.report)
}

func (r *Registry) onSample(m *nats.Msg) {
	s := &kernelv1.SampleAllResponse{}
	if err := proto.Unmarshal(m.Data, s); err != nil {
		r.o.Log.Warn("an unreadable measurement was dropped", "subject", m.Subject, "error", err)
		return
	}
	if subject.Samples(s.GetNode()) != m.Subject {
		r.o.Log.Warn("a measurement of another node than its subject names was dropped", "subject", m.Subject, "node", s.GetNode())
		return
	}
	r.live.Sample(s)
}
