// Package scrape asks every component of the node for its health and its metrics, over the
// bus, all at once, and gives each at most half a second. The series of all components become
// one exposition: families of the same name are merged and every series is labelled with its
// component. A component that does not answer is reported down; it holds nobody up.
//
// Components are those that the gate's table names; the deployer's helpers (runners, keeper)
// are measured by the deployer and not asked. A kernel that takes no such questions is left
// out: that it works is what the gate's lease says.
package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// Patience is how long a component may take to answer.
const Patience = 500 * time.Millisecond

const (
	label  = "component"
	upName = "solo_component_up"
	upHelp = "Whether the component answered within half a second."
)

// Options of a Scraper.
type Options struct {
	Conn *nats.Conn
	// Components are the identities of the node's components, names by id.
	Components func() map[string]string
	// Self is this component's own id, Name its name; Own are its metrics and Healthy its health.
	Self, Name string
	Own        prometheus.Gatherer
	Healthy    func(context.Context) error
	Log        *slog.Logger
}

// Scraper is safe for concurrent use.
type Scraper struct{ o Options }

// New returns a Scraper.
func New(o Options) *Scraper { return &Scraper{o} }

// Asked lists the components that are asked, by name.
func Asked() []string {
	return []string{subject.Audit, subject.Capmgr, subject.Deployer, subject.Gateway, subject.Kernel, subject.Registry, subject.Resmon}
}

// Health is what one component says of itself.
type Health struct {
	Component string `json:"component"`
	OK        bool   `json:"ok"`
	Message   string `json:"message,omitempty"`
}

// Health asks every component that the node knows, by name.
func (s *Scraper) Health(ctx context.Context) []Health {
	var out []Health
	for name, b := range s.ask(ctx, subject.ControlHealth) {
		h := Health{Component: name, Message: "no answer"}
		var r kernelv1.HealthResponse
		switch {
		case name == s.o.Name:
			h.OK, h.Message = true, ""
			if err := s.o.Healthy(ctx); err != nil {
				h.OK, h.Message = false, err.Error()
			}
		case b == nil:
		case proto.Unmarshal(b, &r) != nil:
			h.Message = "unreadable answer"
		default:
			h.OK, h.Message = r.GetOk(), r.GetMessage()
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Health) int { return strings.Compare(a.Component, b.Component) })
	return out
}

// Metrics asks every component and returns the merged families, by name.
func (s *Scraper) Metrics(ctx context.Context) []*dto.MetricFamily {
	m := merger{families: map[string]*dto.MetricFamily{}, log: s.o.Log}
	answers := s.ask(ctx, subject.ControlMetrics)
	names := make([]string, 0, len(answers))
	for name := range answers {
		names = append(names, name)
	}
	slices.Sort(names)
	up := &dto.MetricFamily{Name: proto.String(upName), Help: proto.String(upHelp), Type: dto.MetricType_GAUGE.Enum()}
	for _, name := range names {
		families, err := s.parse(name, answers[name])
		if err != nil {
			s.o.Log.Warn("the metrics of a component cannot be read", "of", name, "error", err)
		}
		alive := 0.0
		if err == nil {
			alive = 1
		}
		up.Metric = append(up.Metric, &dto.Metric{Label: []*dto.LabelPair{pair(name)}, Gauge: &dto.Gauge{Value: &alive}})
		m.add(name, families)
	}
	m.families[upName] = up
	return m.sorted()
}

func (s *Scraper) parse(name string, answer []byte) ([]*dto.MetricFamily, error) {
	if name == s.o.Name {
		return s.o.Own.Gather()
	}
	if answer == nil {
		return nil, fmt.Errorf("no answer within %s", Patience)
	}
	var r kernelv1.MetricsResponse
	if err := proto.Unmarshal(answer, &r); err != nil {
		return nil, err
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	byName, err := p.TextToMetricFamilies(bytes.NewReader(r.GetText()))
	if err != nil {
		return nil, err
	}
	out := make([]*dto.MetricFamily, 0, len(byName))
	for _, f := range byName {
		out = append(out, f)
	}
	return out, nil
}

// ask sends a control request to every component and returns the answers by name, nil where
// there was none. This component is in the result without being asked.
func (s *Scraper) ask(ctx context.Context, op string) map[string][]byte {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	out := map[string][]byte{s.o.Name: nil}
	known := Asked()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for id, name := range s.o.Components() {
		if id == s.o.Self || name == s.o.Name || !slices.Contains(known, name) {
			continue
		}
		mu.Lock()
		if _, there := out[name]; !there {
			out[name] = nil
		}
		mu.Unlock()
		wg.Go(func() {
			m, err := s.o.Conn.RequestWithContext(ctx, subject.Control(op, id), nil)
			if name == subject.Kernel && errors.Is(err, nats.ErrNoResponders) {
				mu.Lock()
				delete(out, name)
				mu.Unlock()
				return
			}
			if err != nil {
				return
			}
			b := m.Data
			if b == nil {
				b = []byte{}
			}
			mu.Lock()
			out[name] = b
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

type merger struct {
	families map[string]*dto.MetricFamily
	log      *slog.Logger
}

// add merges the families of one component. A family that another component has with another
// type is left out: one exposition cannot carry both.
func (m *merger) add(component string, families []*dto.MetricFamily) {
	for _, f := range families {
		for _, x := range f.GetMetric() {
			x.Label = labelled(x.GetLabel(), component)
		}
		have := m.families[f.GetName()]
		switch {
		case f.GetName() == upName:
		case have == nil:
			m.families[f.GetName()] = f
		case have.GetType() != f.GetType():
			m.log.Warn("a metric is left out: another component has it with another type", "metric", f.GetName(), "of", component)
		default:
			have.Metric = append(have.Metric, f.GetMetric()...)
		}
	}
}

// labelled adds the component; a label of that name which was there is kept as exported_component.
func labelled(labels []*dto.LabelPair, component string) []*dto.LabelPair {
	out := make([]*dto.LabelPair, 0, len(labels)+1)
	for _, l := range labels {
		if l.GetName() == label {
			l = &dto.LabelPair{Name: proto.String("exported_" + label), Value: l.Value}
		}
		out = append(out, l)
	}
	out = append(out, pair(component))
	slices.SortFunc(out, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

func pair(component string) *dto.LabelPair {
	return &dto.LabelPair{Name: proto.String(label), Value: &component}
}

func (m *merger) sorted() []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, 0, len(m.families))
	for _, f := range m.families {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}
