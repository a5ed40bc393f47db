package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

type metrics struct {
	deployments *prometheus.CounterVec
	startup     *prometheus.HistogramVec
	runnerDeath prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		deployments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "solo_deployment_count", Help: "Deployments and updates that were asked for, by format of the code and result (ok or failed).",
		}, []string{"format", "result"}),
		startup: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "solo_service_startup_ms", Help: "Milliseconds from the accepted request to the first ready instance, by format of the code.",
			Buckets: []float64{1, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000},
		}, []string{"format"}),
		runnerDeath: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "solo_runner_deaths_total", Help: "Runner processes that ended without being asked to.",
		}),
	}
	reg.MustRegister(m.deployments, m.startup, m.runnerDeath)
	for _, f := range []string{"go_source", "wasm", "binary"} {
		for _, r := range []string{"ok", "failed"} {
			m.deployments.WithLabelValues(f, r) // series exist from the start, at 0
		}
	}
	return m
}

// deployed counts a deployment.
func (m *metrics) deployed(of *solov1.Manifest, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.deployments.WithLabelValues(format(of), result).Inc()
}

// started records how long a start took and returns it in milliseconds.
func (m *metrics) started(of *solov1.Manifest, begun time.Time) float64 {
	ms := float64(time.Since(begun).Microseconds()) / 1000
	m.startup.WithLabelValues(format(of)).Observe(ms)
	return ms
}
