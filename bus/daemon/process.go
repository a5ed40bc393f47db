// Package daemon is the frame of every component process: its identity from an inherited
// pipe, its connection in KERNEL, its gate, its logs, signals, readiness, health and metrics
// over the bus and on a Unix socket. A component adds Run and nothing else.
//
// A process ends when it is told to (SIGTERM, SIGINT, drain), and when its pipe closes,
// which means that the kernel is gone.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// Process is a component that is connected, knows the capability table and may act.
type Process struct {
	Boot    *kernelv1.ComponentBoot
	Conn    *nats.Conn
	JS      jetstream.JetStream
	Table   *gate.Table
	Peer    rpc.Peer
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Audit   *auditlog.Recorder

	gate    *gate.Client
	control *nats.Subscription
	socket  *http.Server
	drain   context.CancelFunc
	// draining is set before drain is called.
	draining atomic.Bool
	bg       sync.WaitGroup
	stopBG   context.CancelFunc

	mu     sync.Mutex
	ready  bool                        // mu
	health func(context.Context) error // mu
	end    func(helper string)         // mu
}

// Connect makes a process from its boot message. drain is called when the process should
// end. Close releases everything.
func Connect(ctx context.Context, boot *kernelv1.ComponentBoot, log *slog.Logger, drain context.CancelFunc) (*Process, error) {
	p := &Process{Boot: boot, Log: log, Table: gate.NewTable(), Metrics: prometheus.NewRegistry(), drain: drain}
	p.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var mu sync.Mutex
	nc, id, err := conn.Dial(ctx, conn.Options{
		Addr: boot.GetNatsAddr(), Seed: boot.GetSeed(), Name: boot.GetComponent(), Reconnect: true,
		Found: func(*nats.Conn) {
			mu.Lock()
			defer mu.Unlock()
			if p.gate != nil {
				p.gate.Rejoin()
			}
		},
		Error: func(_ *nats.Conn, s *nats.Subscription, err error) {
			subj := ""
			if s != nil {
				subj = s.Subject
			}
			log.Warn("bus", "subject", subj, "error", err)
		},
	})
	if err != nil {
		return nil, err
	}
	p.Conn, p.Peer = nc, rpc.Peer{Conn: nc, ID: id}
	fail := func(err error) (*Process, error) { nc.Close(); return nil, err }
	if p.JS, err = jetstream.New(nc); err != nil {
		return fail(err)
	}
	g, err := gate.Join(ctx, p.Table, gate.ClientOptions{Conn: nc, ID: id, Name: boot.GetComponent(), Log: log})
	if err != nil {
		return fail(err)
	}
	mu.Lock()
	p.gate = g
	mu.Unlock()
	p.Audit = auditlog.New(p.JS, boot.GetComponent(), p.Table, log)
	if p.control, err = nc.Subscribe(subject.ControlServing(id), p.onControl); err != nil {
		g.Close()
		return fail(err)
	}
	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stopBG = stop
	p.bg.Go(func() { p.Audit.Run(bg) })
	if err := p.serveSocket(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close ends everything that Connect began.
func (p *Process) Close() {
	if p.socket != nil {
		_ = p.socket.Close() // it serves nothing that must be finished
	}
	p.stopBG()
	p.bg.Wait()
	_ = p.control.Unsubscribe() // the connection is closed next
	p.gate.Close()
	p.Conn.Close()
}

// Ready tells the kernel that the component does its work, and where it listens.
func (p *Process) Ready(ctx context.Context, addresses map[string]string) error {
	b, err := proto.Marshal(&kernelv1.ReadyRequest{Addresses: addresses})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := p.Conn.RequestWithContext(ctx, subject.Fence(subject.FenceReady, p.Peer.ID), b)
	if err != nil {
		return fmt.Errorf("telling the kernel that %s is ready: %w", p.Boot.GetComponent(), err)
	}
	if err := rpc.ReplyError(m); err != nil {
		return err
	}
	p.mu.Lock()
	p.ready = true
	p.mu.Unlock()
	return nil
}

// Draining tells whether the process was told over the bus to drain: a planned end of all of Solo.
// A process that ends for any other reason may be replaced at once, and leaves what outlives it alone.
func (p *Process) Draining() bool { return p.draining.Load() }

// SetHealth sets what is asked at each health check; nil is always well.
func (p *Process) SetHealth(f func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health = f
}

// SetEnd sets what ends a helper of this process that hangs, by the helper's id. It must not block.
func (p *Process) SetEnd(f func(helper string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = f
}

// Server makes a system call server for this component.
func (p *Process) Server() (*rpc.Server, error) {
	return rpc.NewServer(rpc.Options{Conn: p.Conn, Component: p.Boot.GetComponent(), Gate: p.Table, Log: p.Log, Denied: p.Audit.Denied})
}

// Fence asks the node's fence something.
func (p *Process) Fence(ctx context.Context, op string, req, resp proto.Message) error {
	b, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	m, err := p.Conn.RequestWithContext(ctx, subject.Fence(op, p.Peer.ID), b)
	if err != nil {
		return rpc.TransportError(err, "the fence")
	}
	if err := rpc.ReplyError(m); err != nil {
		return err
	}
	return proto.Unmarshal(m.Data, resp)
}

func (p *Process) check(ctx context.Context) error {
	p.mu.Lock()
	f := p.health
	p.mu.Unlock()
	if !p.Table.Leased() {
		return errors.New("the gate's lease has run out")
	}
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (p *Process) onControl(m *nats.Msg) {
	op, _, err := subject.ParseControl(m.Subject)
	if err != nil {
		return
	}
	var resp proto.Message
	switch op {
	case subject.ControlHealth:
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		h := &kernelv1.HealthResponse{Ok: true, Goroutines: uint32(runtime.NumGoroutine()), RssBytes: rss()}
		if err := p.check(ctx); err != nil {
			h.Ok, h.Message = false, err.Error()
		}
		resp = h
	case subject.ControlMetrics:
		b, err := Exposition(p.Metrics)
		if err != nil {
			p.Log.Warn("metrics cannot be gathered", "error", err)
		}
		resp = &kernelv1.MetricsResponse{Text: b}
	case subject.ControlDrain:
		p.draining.Store(true)
		p.drain()
		resp = &kernelv1.HealthResponse{Ok: true}
	case subject.ControlEnd:
		p.mu.Lock()
		end := p.end
		p.mu.Unlock()
		if end == nil {
			return
		}
		end(string(m.Data))
		resp = &kernelv1.HealthResponse{Ok: true}
	default:
		return
	}
	if m.Reply == "" {
		return // nobody waits
	}
	b, err := proto.Marshal(resp)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		p.Log.Warn("a control request could not be answered", "op", op, "error", err)
	}
}

// Exposition is what g gathers in the Prometheus text format; with an error, what could be gathered.
func Exposition(g prometheus.Gatherer) ([]byte, error) {
	families, err := g.Gather()
	var b strings.Builder
	for _, f := range families {
		if _, werr := expfmt.MetricFamilyToText(&b, f); werr != nil {
			return nil, werr
		}
	}
	return []byte(b.String()), err
}

// serveSocket serves /healthz, /readyz and /metrics on $SOLO_HOME/run/<component>.sock.
func (p *Process) serveSocket() error {
	dir := filepath.Join(p.Boot.GetHome(), "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, p.Boot.GetComponent()+".sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := p.check(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		ready := p.ready
		p.mu.Unlock()
		if !ready {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	p.socket = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	p.bg.Go(func() {
		if err := p.socket.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.Log.Warn("the health socket ended", "error", err)
		}
	})
	return nil
}

// rss is the resident size of this process in bytes, 0 where /proc does not tell.
func rss() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
