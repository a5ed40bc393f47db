package kernel

import (
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/fence"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// metrics are the kernel's own series: the bus, the fence and what it supervises.
type metrics struct {
	registry   *prometheus.Registry
	restarts   *prometheus.CounterVec
	violations *prometheus.CounterVec
	refused    *prometheus.CounterVec
	turnedAway *prometheus.CounterVec
}

func newMetrics(b *embed.Server, f *fence.Fence) *metrics {
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		restarts:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "solo_component_ends_total", Help: "Components that ended unasked."}, []string{"child"}),
		violations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "solo_bus_violations_total", Help: "Publishes and subscriptions that the server refused."}, []string{"kind"}),
		refused:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "solo_bus_refused_total", Help: "Keys that were not let in."}, []string{"reason"}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "solo_bus_turned_away_total", Help: "What the door in front of the bus did not let through, or only later."}, []string{"what"}),
	}
	gauge := func(name, help string, v func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, v)
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.restarts, m.violations, m.refused, m.turnedAway,
		gauge("solo_bus_connections", "Connections to the bus.", func() float64 { return float64(b.Connections()) }),
		gauge("solo_bus_sockets", "Sockets on the bus, those included that have not authenticated.", func() float64 { n, _ := b.Door().Counts(); return float64(n) }),
		gauge("solo_bus_unauthenticated_sockets", "Sockets on the bus that have not authenticated.", func() float64 { _, n := b.Door().Counts(); return float64(n) }),
		gauge("solo_bus_holder_calls", "Calls of holders that wait for their answer.", func() float64 { return float64(b.Door().Calls()) }),
		gauge("solo_bus_pending_replies", "Requests across accounts that wait for their answer.", func() float64 { return float64(b.PendingReplies()) }),
		gauge("solo_gates", "Gates that hold a lease.", func() float64 { _, n := f.Counts(); return float64(n) }),
		gauge("solo_capabilities_live", "Capabilities neither revoked nor expired.", func() float64 { _, n := f.Table().Count(); return float64(n) }),
	)
	return m
}

// onControl answers for the kernel what every component answers for itself.
func (k *kernel) onControl(m *nats.Msg) {
	op, _, err := subject.ParseControl(m.Subject)
	if err != nil || m.Reply == "" {
		return
	}
	var resp proto.Message
	switch op {
	case subject.ControlHealth:
		resp = &kernelv1.HealthResponse{Ok: true}
	case subject.ControlMetrics:
		b, err := daemon.Exposition(k.metrics.registry)
		if err != nil {
			k.log.Warn("metrics cannot be gathered", "error", err)
		}
		resp = &kernelv1.MetricsResponse{Text: b}
	default:
		return
	}
	b, err := proto.Marshal(resp)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		k.log.Warn("a control request could not be answered", "op", op, "error", err)
	}
}
