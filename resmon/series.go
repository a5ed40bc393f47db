package resmon

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/resmon/internal/history"
	"github.com/solo-os/solo/resmon/internal/limits"
)

// MaxLabelled is how many services have series of their own at a time; a service keeps its
// place until it is gone. All others together are the service `other`, which is no possible
// name of one.
const MaxLabelled = 1000

const other = "other"

// series is what resmon itself exports. solo_service_memory_bytes observes every instance at
// every sample, so it is the distribution of memory over instances and time.
type series struct {
	states func() map[solov1.ServiceState]uint64

	failed, undone prometheus.Counter
	marks          *prometheus.CounterVec
	memory         prometheus.Histogram
	helpers        prometheus.Gauge

	active, current, mailbox, restarts, calls, errs, latency, cpu *prometheus.Desc

	mu    sync.Mutex
	known map[string]*totals // mu; labelled services, and other
}

type totals struct {
	history.Measure                  // gauges as they stand
	calls, errs, latency, cpu uint64 // since this process began
}

func newSeries(states func() map[solov1.ServiceState]uint64) *series {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &series{
		states: states, known: map[string]*totals{},
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "solo_sample_failures_total", Help: "Measurements of the node that failed."}),
		undone: prometheus.NewCounter(prometheus.CounterOpts{Name: "solo_limit_actions_failed_total", Help: "Decisions about limits that could not be carried out."}),
		marks:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "solo_limit_marks_total", Help: "Marks of limits reached, with the action decided."}, []string{"limit", "mark", "action"}),
		memory: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "solo_service_memory_bytes", Help: "Memory of service instances, each observed once a second.",
			Buckets: prometheus.ExponentialBuckets(64<<10, 2, 17), // 64 KiB to 4 GiB
		}),
		helpers:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "solo_helper_memory_bytes", Help: "Resident memory of runners and keeper."}),
		active:   desc("solo_active_services", "Registered services by state.", "state"),
		current:  desc("solo_service_memory_current_bytes", "Memory of a service's instances together.", "service"),
		mailbox:  desc("solo_service_mailbox_depth", "Messages waiting for a service.", "service"),
		restarts: desc("solo_service_restarts_total", "Restarts of a service's present instances.", "service"),
		calls:    desc("solo_service_calls_total", "Calls answered by a service, errors included.", "service"),
		errs:     desc("solo_service_errors_total", "Calls of a service that ended in an error.", "service"),
		latency:  desc("solo_service_latency_seconds_total", "Sum of the latencies of a service's calls; divide by calls for the mean.", "service"),
		cpu:      desc("solo_service_cpu_seconds_total", "CPU time of a service's instances.", "service"),
	}
}

// observe takes one sample.
func (s *series) observe(sample *kernelv1.SampleAllResponse, used map[string]history.Measure) {
	for _, p := range sample.GetPlacements() {
		for _, i := range p.GetInstances() {
			s.memory.Observe(float64(i.GetMemoryBytes()))
		}
	}
	s.helpers.Set(float64(sample.GetHelperMemoryBytes()))
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.known {
		if _, there := used[name]; !there && name != other {
			delete(s.known, name)
			continue
		}
		t.Measure = history.Measure{}
	}
	for name, m := range used {
		s.place(name).add(m)
	}
}

// place is where a service is counted; s.mu is held.
func (s *series) place(name string) *totals {
	if t := s.known[name]; t != nil {
		return t
	}
	if len(s.known) >= MaxLabelled {
		name = other
	}
	t := s.known[name]
	if t == nil {
		t = &totals{}
		s.known[name] = t
	}
	return t
}

func (t *totals) add(m history.Measure) {
	t.MemoryBytes += m.MemoryBytes
	t.Mailbox += m.Mailbox
	t.Restarts += m.Restarts
	t.calls += m.Calls
	t.errs += m.Errors
	t.latency += m.LatencyUs
	t.cpu += m.CPUMs
}

func (s *series) mark(d limits.Decision) {
	action := "none"
	if d.Mark == limits.Hard {
		action = strings.ToLower(strings.TrimPrefix(d.Action.String(), "LIMIT_ACTION_"))
	}
	s.marks.WithLabelValues(d.Limit, d.Mark, action).Inc()
}

// Describe is part of prometheus.Collector.
func (s *series) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.plain() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{s.active, s.current, s.mailbox, s.restarts, s.calls, s.errs, s.latency, s.cpu} {
		ch <- d
	}
}

func (s *series) plain() []prometheus.Collector {
	return []prometheus.Collector{s.failed, s.undone, s.marks, s.memory, s.helpers}
}

// Collect is part of prometheus.Collector.
func (s *series) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.plain() {
		c.Collect(ch)
	}
	counts := s.states()
	for n, full := range solov1.ServiceState_name {
		if n == 0 {
			continue
		}
		state := strings.ToLower(strings.TrimPrefix(full, "SERVICE_STATE_"))
		ch <- prometheus.MustNewConstMetric(s.active, prometheus.GaugeValue, float64(counts[solov1.ServiceState(n)]), state)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.known {
		for _, m := range []struct {
			desc  *prometheus.Desc
			kind  prometheus.ValueType
			value float64
		}{
			{s.current, prometheus.GaugeValue, float64(t.MemoryBytes)},
			{s.mailbox, prometheus.GaugeValue, float64(t.Mailbox)},
			{s.restarts, prometheus.CounterValue, float64(t.Restarts)},
			{s.calls, prometheus.CounterValue, float64(t.calls)},
			{s.errs, prometheus.CounterValue, float64(t.errs)},
			{s.latency, prometheus.CounterValue, float64(t.latency) / 1e6},
			{s.cpu, prometheus.CounterValue, float64(t.cpu) / 1e3},
		} {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value, name)
		}
	}
}
