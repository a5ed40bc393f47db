package manifest

import (
	"slices"
	"time"

	"github.com/solo-os/solo/proto/capability"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The words of the file for each enumeration, in the order of the documentation.

func formats() []word[solov1.Format] {
	return []word[solov1.Format]{{"go", solov1.Format_FORMAT_GO_SOURCE}, {"wasm", solov1.Format_FORMAT_WASM}, {"binary", solov1.Format_FORMAT_BINARY}}
}

func protocols() []word[solov1.Protocol] {
	return []word[solov1.Protocol]{{"http", solov1.Protocol_PROTOCOL_HTTP}, {"stdio", solov1.Protocol_PROTOCOL_STDIO}, {"nats", solov1.Protocol_PROTOCOL_NATS}}
}

func strategies() []word[solov1.Strategy] {
	return []word[solov1.Strategy]{
		{"recreate", solov1.Strategy_STRATEGY_RECREATE},
		{"hot-reload", solov1.Strategy_STRATEGY_HOT_RELOAD},
		{"rolling", solov1.Strategy_STRATEGY_ROLLING},
		{"canary", solov1.Strategy_STRATEGY_CANARY},
		{"blue-green", solov1.Strategy_STRATEGY_BLUE_GREEN},
	}
}

func actions() []word[solov1.LimitAction] {
	return []word[solov1.LimitAction]{{"kill", solov1.LimitAction_LIMIT_ACTION_KILL}, {"throttle", solov1.LimitAction_LIMIT_ACTION_THROTTLE}, {"warn", solov1.LimitAction_LIMIT_ACTION_WARN}}
}

func modes() []word[solov1.StateMode] {
	return []word[solov1.StateMode]{
		{"none", solov1.StateMode_STATE_MODE_NONE},
		{"hybrid", solov1.StateMode_STATE_MODE_HYBRID},
		{"durable", solov1.StateMode_STATE_MODE_DURABLE},
		{"external", solov1.StateMode_STATE_MODE_EXTERNAL},
	}
}

func restarts() []word[solov1.RestartType] {
	return []word[solov1.RestartType]{
		{"permanent", solov1.RestartType_RESTART_TYPE_PERMANENT},
		{"transient", solov1.RestartType_RESTART_TYPE_TRANSIENT},
		{"temporary", solov1.RestartType_RESTART_TYPE_TEMPORARY},
	}
}

// ParseFormat reads go, wasm or binary.
func ParseFormat(s string) (solov1.Format, error) { return oneOf("format", formats())(s) }

// ParseProtocol reads http, stdio or nats.
func ParseProtocol(s string) (solov1.Protocol, error) { return oneOf("protocol", protocols())(s) }

// ParseStrategy reads recreate, hot-reload, rolling, canary or blue-green.
func ParseStrategy(s string) (solov1.Strategy, error) { return oneOf("strategy", strategies())(s) }

// Parse reads a manifest; file is its name in errors, which are *Error.
func Parse(file string, data []byte) (*Document, error) {
	n, err := load(data)
	if err != nil {
		return nil, &Error{file, []Problem{{Message: err.Error()}}}
	}
	d := &decoder{at: map[string]*yaml.Node{}}
	doc := &Document{Manifest: &solov1.Manifest{}}
	d.manifest(n, doc)
	if len(d.problems) == 0 {
		d.contradictions(doc)
	}
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Error{file, d.problems}
	}
	if n := d.at["source"]; n != nil {
		doc.SourceLine, doc.SourceColumn = n.Line, n.Column
	}
	tidy(doc.Manifest)
	return doc, nil
}

// tidy drops what says nothing, so that equal manifests are equal messages.
func tidy(m *solov1.Manifest) {
	if proto.Size(m.GetLimits().GetActions()) == 0 && m.Limits != nil {
		m.Limits.Actions = nil
	}
	if proto.Size(m.GetLimits()) == 0 {
		m.Limits = nil
	}
	if proto.Size(m.GetState()) == 0 {
		m.State = nil
	}
	if proto.Size(m.GetRestart()) == 0 {
		m.Restart = nil
	}
	if proto.Size(m.GetUpdate()) == 0 {
		m.Update = nil
	}
}

func (d *decoder) manifest(n *yaml.Node, doc *Document) {
	m := doc.Manifest
	d.mapping(n, "", fields{
		"name": reader(d, &m.Name, func(s string) (string, error) {
			_, err := subject.ParseService(s)
			return s, err
		}),
		"format":     reader(d, &m.Format, ParseFormat),
		"source":     reader(d, &doc.Source, parseSource),
		"protocol":   reader(d, &m.Protocol, ParseProtocol),
		"operations": func(n *yaml.Node, p string) { d.operations(n, p, m) },
		"replicas":   reader(d, &m.Replicas, ParseReplicas),
		"limits":     func(n *yaml.Node, p string) { m.Limits = d.limits(n, p) },
		"grants":     func(n *yaml.Node, p string) { d.grants(n, p, m) },
		"state":      func(n *yaml.Node, p string) { m.State = d.state(n, p) },
		"restart":    func(n *yaml.Node, p string) { m.Restart = d.restart(n, p) },
		"update":     func(n *yaml.Node, p string) { m.Update = d.update(n, p) },
		"env":        func(n *yaml.Node, p string) { d.env(n, p, m) },
		"args": func(n *yaml.Node, p string) {
			d.list(n, p, 64, func(n *yaml.Node, p string) {
				if s, ok := d.text(n, p); ok {
					m.Args = append(m.Args, s)
				}
			})
		},
	})
}

func (d *decoder) operations(n *yaml.Node, path string, m *solov1.Manifest) {
	seen := map[string]bool{}
	d.list(n, path, 256, func(n *yaml.Node, p string) {
		o := &solov1.Operation{}
		d.mapping(n, p, fields{
			"name":        reader(d, &o.Name, parseOp),
			"timeout":     reader(d, &o.Timeout, protoDuration(10*time.Minute)),
			"description": reader(d, &o.Description, atMost(1024)),
		})
		switch {
		case o.Name == "" && d.at[join(p, "name")] == nil && n.Kind == yaml.MappingNode:
			d.add(n, join(p, "name"), "is missing")
		case o.Name != "" && seen[o.Name]:
			d.add(n, join(p, "name"), "operation %q is given twice", o.Name)
		}
		seen[o.Name] = true
		m.Operations = append(m.Operations, o)
	})
}

func (d *decoder) limits(n *yaml.Node, path string) *solov1.Limits {
	l := &solov1.Limits{}
	d.mapping(n, path, fields{
		"memory":           reader(d, &l.MemoryBytes, between(ParseSize, 64<<10, 4<<30, FormatSize)),
		"cpu":              reader(d, &l.CpuMillis, between(ParseCPU, 0, 1_000_000, FormatCPU)),
		"mailbox":          reader(d, &l.Mailbox, between(parseCount, 1, 1_000_000, showCount)),
		"calls_per_second": reader(d, &l.CallsPerSecond, parseCount),
		"state":            reader(d, &l.StateBytes, between(ParseSize, 1, 1<<40, FormatSize)),
		"actions": func(n *yaml.Node, p string) {
			a := &solov1.LimitActions{}
			act := oneOf("action", actions())
			d.mapping(n, p, fields{
				"memory":  reader(d, &a.Memory, act),
				"cpu":     reader(d, &a.Cpu, act),
				"mailbox": reader(d, &a.Mailbox, act),
			})
			l.Actions = a
		},
	})
	return l
}

func (d *decoder) grants(n *yaml.Node, path string, m *solov1.Manifest) {
	d.list(n, path, capability.MaxRules, func(n *yaml.Node, p string) {
		s, ok := d.text(n, p)
		if !ok {
			return
		}
		if _, err := capability.ParseRule(s); err != nil {
			d.add(n, p, "%v", err)
			return
		}
		m.Grants = append(m.Grants, s)
	})
}

func (d *decoder) state(n *yaml.Node, path string) *solov1.StatePolicy {
	s := &solov1.StatePolicy{}
	d.mapping(n, path, fields{
		"flush_interval": func(n *yaml.Node, p string) {
			v := time.Duration(-1)
			reader(d, &v, between(ParseDuration, 0, time.Hour, FormatDuration))(n, p)
			// An interval of nothing is write-through, which the message says apart.
			if s.FlushThrough = v == 0; v > 0 {
				s.FlushInterval = durationpb.New(v)
			}
		},
		"keys": func(n *yaml.Node, p string) {
			d.list(n, p, 64, func(n *yaml.Node, p string) {
				k := &solov1.StateKeyPolicy{}
				d.mapping(n, p, fields{
					"match": reader(d, &k.Match, parseMatch),
					"mode":  reader(d, &k.Mode, oneOf("mode", modes())),
				})
				for _, f := range []string{"match", "mode"} {
					if n.Kind == yaml.MappingNode && d.at[join(p, f)] == nil {
						d.add(n, join(p, f), "is missing")
					}
				}
				s.Keys = append(s.Keys, k)
			})
		},
	})
	return s
}

func (d *decoder) restart(n *yaml.Node, path string) *solov1.RestartPolicy {
	r := &solov1.RestartPolicy{}
	d.mapping(n, path, fields{
		"type":   reader(d, &r.Type, oneOf("restart type", restarts())),
		"max":    reader(d, &r.Max, between(parseCount, 1, 1000, showCount)),
		"within": reader(d, &r.Within, protoDuration(24*time.Hour)),
	})
	return r
}

func (d *decoder) update(n *yaml.Node, path string) *solov1.UpdatePolicy {
	u := &solov1.UpdatePolicy{}
	d.mapping(n, path, fields{
		"strategy":        reader(d, &u.Strategy, ParseStrategy),
		"max_surge":       reader(d, &u.MaxSurge, between(parseCount, 0, 1000, showCount)),
		"max_unavailable": reader(d, &u.MaxUnavailable, between(parseCount, 0, 1000, showCount)),
		"max_error_rate":  reader(d, &u.MaxErrorRate, between(parseNumber, 0, 1, showNumber)),
		"max_p99_ratio":   reader(d, &u.MaxP99Ratio, between(parseNumber, 0, 1e6, showNumber)),
		"steps": func(n *yaml.Node, p string) {
			d.list(n, p, 32, func(n *yaml.Node, p string) {
				s := &solov1.CanaryStep{}
				d.mapping(n, p, fields{
					"weight": reader(d, &s.Weight, between(parseCount, 1, 100, showCount)),
					"pause":  reader(d, &s.Pause, protoDuration(24*time.Hour)),
				})
				if n.Kind == yaml.MappingNode && d.at[join(p, "weight")] == nil {
					d.add(n, join(p, "weight"), "is missing")
				}
				u.Steps = append(u.Steps, s)
			})
		},
	})
	return u
}

func (d *decoder) env(n *yaml.Node, path string, m *solov1.Manifest) {
	d.pairs(n, path, func(key string, kn, value *yaml.Node, p string) {
		v, ok := d.text(value, p)
		if err := CheckEnv(key, v); err != nil {
			d.add(kn, p, "%v", err)
		} else if ok {
			if m.Env == nil {
				m.Env = map[string]string{}
			}
			m.Env[key] = v
		}
	})
	if len(m.Env) > 256 {
		d.add(n, path, "has %d variables: at most 256", len(m.Env))
	}
}
