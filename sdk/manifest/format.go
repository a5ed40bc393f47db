package manifest

import (
	"maps"
	"slices"
	"strconv"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Format writes a document as YAML, the fields in the order of the documentation, defaults
// left out.
func Format(doc *Document) ([]byte, error) {
	m := doc.Manifest
	var b block
	b.text("name", m.GetName())
	b.text("format", wordOf(formats(), m.GetFormat()))
	b.text("source", doc.Source)
	b.text("protocol", wordOf(protocols(), m.GetProtocol()))
	var ops list
	for _, o := range m.GetOperations() {
		var x block
		x.text("name", o.GetName())
		x.duration("timeout", o.GetTimeout())
		x.text("description", o.GetDescription())
		ops.add(x.node())
	}
	b.add("operations", ops.node())
	b.count("replicas", m.GetReplicas())
	b.add("limits", limitsNode(m.GetLimits()))
	b.texts("grants", m.GetGrants())
	b.add("state", stateNode(m.GetState()))
	var r block
	r.text("type", wordOf(restarts(), m.GetRestart().GetType()))
	r.count("max", m.GetRestart().GetMax())
	r.duration("within", m.GetRestart().GetWithin())
	b.add("restart", r.node())
	b.add("update", updateNode(m.GetUpdate()))
	var env block
	for _, k := range slices.Sorted(maps.Keys(m.GetEnv())) {
		env.add(k, scalar(m.GetEnv()[k], "!!str"))
	}
	b.add("env", env.node())
	b.texts("args", m.GetArgs())
	n := b.node()
	if n == nil {
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	return yaml.Dump(n)
}

func limitsNode(l *solov1.Limits) *yaml.Node {
	var b, a block
	if l.GetMemoryBytes() > 0 {
		b.text("memory", FormatSize(l.GetMemoryBytes()))
	}
	if l.GetCpuMillis() > 0 {
		b.add("cpu", scalar(FormatCPU(l.GetCpuMillis()), ""))
	}
	b.count("mailbox", l.GetMailbox())
	b.count("calls_per_second", l.GetCallsPerSecond())
	if l.GetStateBytes() > 0 {
		b.text("state", FormatSize(l.GetStateBytes()))
	}
	a.text("memory", wordOf(actions(), l.GetActions().GetMemory()))
	a.text("cpu", wordOf(actions(), l.GetActions().GetCpu()))
	a.text("mailbox", wordOf(actions(), l.GetActions().GetMailbox()))
	b.add("actions", a.node())
	return b.node()
}

func stateNode(s *solov1.StatePolicy) *yaml.Node {
	var b block
	b.duration("flush_interval", s.GetFlushInterval())
	if s.GetFlushThrough() {
		b.add("flush_interval", scalar("0s", "!!str"))
	}
	var keys list
	for _, k := range s.GetKeys() {
		var x block
		x.text("match", k.GetMatch())
		x.text("mode", wordOf(modes(), k.GetMode()))
		keys.add(x.node())
	}
	b.add("keys", keys.node())
	return b.node()
}

func updateNode(u *solov1.UpdatePolicy) *yaml.Node {
	var b block
	b.text("strategy", wordOf(strategies(), u.GetStrategy()))
	b.count("max_surge", u.GetMaxSurge())
	b.count("max_unavailable", u.GetMaxUnavailable())
	var steps list
	for _, s := range u.GetSteps() {
		var x block
		x.count("weight", s.GetWeight())
		x.duration("pause", s.GetPause())
		steps.add(x.node())
	}
	b.add("steps", steps.node())
	b.number("max_error_rate", u.GetMaxErrorRate())
	b.number("max_p99_ratio", u.GetMaxP99Ratio())
	return b.node()
}

// block builds a mapping; empty values are left out.
type block struct{ content []*yaml.Node }

func (b *block) add(key string, n *yaml.Node) {
	if n != nil {
		b.content = append(b.content, scalar(key, "!!str"), n)
	}
}

func (b *block) text(key, v string) {
	if v != "" {
		b.add(key, scalar(v, "!!str"))
	}
}

func (b *block) texts(key string, vs []string) {
	var l list
	for _, v := range vs {
		l.add(scalar(v, "!!str"))
	}
	b.add(key, l.node())
}

func (b *block) count(key string, n uint32) {
	if n > 0 {
		b.add(key, scalar(strconv.FormatUint(uint64(n), 10), ""))
	}
}

func (b *block) number(key string, v float64) {
	if v != 0 {
		b.add(key, scalar(showNumber(v), ""))
	}
}

func (b *block) duration(key string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() > 0 {
		b.text(key, FormatDuration(d.AsDuration()))
	}
}

func (b *block) node() *yaml.Node {
	if len(b.content) == 0 {
		return nil
	}
	return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: b.content}
}

// list builds a sequence; an empty one is left out.
type list struct{ content []*yaml.Node }

func (l *list) add(n *yaml.Node) {
	if n != nil {
		l.content = append(l.content, n)
	}
}

func (l *list) node() *yaml.Node {
	if len(l.content) == 0 {
		return nil
	}
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: l.content}
}

func scalar(v, tag string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: v, Tag: tag} }
