package scrape

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/proto"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func answer(t *testing.T, text string) []byte {
	t.Helper()
	b, err := proto.Marshal(&kernelv1.MetricsResponse{Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	s := New(Options{Name: "resmon", Own: prometheus.NewRegistry(), Log: quiet()})
	f, err := s.parse("capmgr", answer(t, "# TYPE x counter\nx{a=\"b\"} 3\n"))
	if err != nil || len(f) != 1 || f[0].GetMetric()[0].GetCounter().GetValue() != 3 {
		t.Errorf("%v %v", f, err)
	}
	if f, err := s.parse("resmon", nil); err != nil || len(f) != 0 {
		t.Errorf("its own: %v %v", f, err)
	}
	for what, b := range map[string][]byte{"no answer": nil, "no message": []byte("\xff"), "no metrics": answer(t, "x{")} {
		if _, err := s.parse("capmgr", b); err == nil {
			t.Errorf("%s is no error", what)
		}
	}
}

func family(name string, kind dto.MetricType, labels ...*dto.LabelPair) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: kind.Enum(), Metric: []*dto.Metric{{Label: labels, Gauge: &dto.Gauge{Value: proto.Float64(1)}}}}
}

func TestMerge(t *testing.T) {
	m := merger{families: map[string]*dto.MetricFamily{}, log: quiet()}
	component := &dto.LabelPair{Name: proto.String("component"), Value: proto.String("mine")}
	z := &dto.LabelPair{Name: proto.String("z"), Value: proto.String("1")}
	m.add("audit", []*dto.MetricFamily{family("x", dto.MetricType_GAUGE, z, component), family("y", dto.MetricType_GAUGE)})
	m.add("capmgr", []*dto.MetricFamily{family("x", dto.MetricType_GAUGE), family("y", dto.MetricType_COUNTER), family(upName, dto.MetricType_GAUGE)})
	got := m.sorted()
	if len(got) != 2 || got[0].GetName() != "x" || len(got[0].GetMetric()) != 2 || len(got[1].GetMetric()) != 1 {
		t.Fatalf("%v", got)
	}
	var names []string
	for _, l := range got[0].GetMetric()[0].GetLabel() {
		names = append(names, l.GetName()+"="+l.GetValue())
	}
	if s := strings.Join(names, ","); s != "component=audit,exported_component=mine,z=1" {
		t.Error(s)
	}
}
