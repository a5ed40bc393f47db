// Package authority answers the capability manager's system calls. What changes something is
// decided on the ledger's own state, inside its one append path; what only tells is read
// from the process's gate, which shows nothing that is not in force everywhere.
//
// Grants and revocations are recorded in the audit trail, intent first. What the deployer asks
// for (endow, bind, disendow) belongs to a deployment that the deployer has recorded.
package authority

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr/internal/ledger"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
)

// DefaultMaxChildren bounds the live capabilities granted from one.
const DefaultMaxChildren = 10_000

// Options of an Authority.
type Options struct {
	Ledger *ledger.Ledger
	// Gate is the process's gate.
	Gate  *gate.Table
	Audit *auditlog.Recorder
	// Requests remembers answered request ids.
	Requests *idem.Store
	Metrics  prometheus.Registerer
	Log      *slog.Logger
	// Died is told that a revocation killed somebody; nil tells nobody. It does not wait.
	Died func()
	// MaxChildren bounds the live capabilities granted from one; 0 is DefaultMaxChildren.
	MaxChildren int
}

// Authority decides about capabilities. Its methods are safe for concurrent use.
type Authority struct {
	o       Options
	metrics *metrics
	pace    *pace
}

// New makes an Authority and registers its series.
func New(o Options) (*Authority, error) {
	if o.MaxChildren == 0 {
		o.MaxChildren = DefaultMaxChildren
	}
	m, err := newMetrics(o.Metrics, o.Gate)
	if err != nil {
		return nil, err
	}
	return &Authority{o, m, newPace()}, nil
}

// Serve adds every operation to a server that has not been started.
func (a *Authority) Serve(s *rpc.Server) {
	rpc.Handle(s, "grant", a.grant)
	rpc.Handle(s, "revoke", a.revoke)
	rpc.Handle(s, "describe", a.describe)
	rpc.Handle(s, "can", a.can)
	rpc.Handle(s, "explain", a.explain)
	rpc.Handle(s, "endow", a.endow)
	rpc.Handle(s, "bind", a.bind)
	rpc.Handle(s, "disendow", a.disendow)
}

// refuse counts a refusal, in the metrics and in the audit trail, and returns it.
func (a *Authority) refuse(holder, op, object string, err error) error {
	f := fault.From(err)
	switch f.Code {
	case codes.PermissionDenied, codes.Unauthenticated:
		a.metrics.denials.WithLabelValues(f.Reason).Inc()
		a.o.Audit.Count(holder, subject.Capmgr+"."+op, object, f.Reason)
	}
	return err
}

// live is the fault of a holder that is not live, or nil.
func live(v gate.View, known bool) error {
	if known && v.State == gate.Allowed {
		return nil
	}
	return fault.New(codes.Unauthenticated, fault.ReasonHandleRefused, "the handle is not valid (unknown, revoked or expired)").
		Next("ask whoever granted it for a new one")
}

// traceID is the trace in a W3C traceparent, or empty.
func traceID(parent string) string {
	const version, id = 3, 32
	if len(parent) < version+id || parent[2] != '-' {
		return ""
	}
	return parent[version : version+id]
}

type metrics struct {
	grants     prometheus.Counter
	denials    *prometheus.CounterVec
	revocation prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, t *gate.Table) (*metrics, error) {
	m := &metrics{
		grants: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "solo_capability_grants_total", Help: "Capabilities granted.",
		}),
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "solo_capability_denials_total", Help: "Refused grants and revocations, and refusals explained, by reason.",
		}, []string{"reason"}),
		revocation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "solo_revocation_duration_ms", Help: "Milliseconds from a revocation's request until no effect of what died can begin.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 250, 500, 1000, 2500, 5000},
		}),
	}
	liveNow := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "solo_live_capabilities", Help: "Capabilities that are neither revoked nor expired.",
	}, func() float64 { _, n := t.Count(); return float64(n) })
	for _, c := range []prometheus.Collector{m.grants, m.denials, m.revocation, liveNow} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
