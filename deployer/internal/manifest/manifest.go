// Package manifest decides whether a manifest makes sense and fills in what it leaves open. It
// adds to the rules in the proto what one field cannot tell: contradictions between fields, values
// that fit no machine, rights that do not parse. Every problem is reported at once, each with its
// field, so that one round trip is enough to repair a manifest.
package manifest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// What a manifest that says nothing gets.
const (
	DefaultMemory        = 64 << 20
	DefaultMailbox       = 20_000
	DefaultState         = 64 << 20
	DefaultTimeout       = 30 * time.Second
	DefaultFlushInterval = 5 * time.Second
	DefaultRestarts      = 5
	DefaultWithin        = 30 * time.Second
	// MinMemory is one page of WASM memory.
	MinMemory = 64 << 10
	// MaxState bounds the state of a service: it is held in its runner's memory.
	MaxState = 1 << 30
	// MaxFlushInterval bounds what a power cut can cost.
	MaxFlushInterval = time.Hour
	// MaxEnvBytes bounds names and values of env together.
	MaxEnvBytes = 256 << 10
)

// checker collects what is wrong.
type checker struct {
	m   *solov1.Manifest
	bad []fault.Field
}

func (c *checker) say(path, format string, args ...any) {
	c.bad = append(c.bad, fault.Field{Path: "manifest." + path, Description: fmt.Sprintf(format, args...)})
}

// Complete returns a copy of m with every default written out, or a fault MANIFEST_INVALID that
// names each contradiction. m has passed the rules in the proto.
func Complete(m *solov1.Manifest) (*solov1.Manifest, error) {
	c := &checker{m: proto.CloneOf(m)}
	c.name()
	c.format()
	c.operations()
	c.limits()
	c.grants()
	c.state()
	c.restart()
	c.update()
	c.env()
	if len(c.bad) == 0 {
		return c.m, nil
	}
	texts := make([]string, len(c.bad))
	for i, f := range c.bad {
		texts[i] = f.Path + ": " + f.Description
	}
	e := fault.New(codes.InvalidArgument, fault.ReasonManifestInvalid, "%s", strings.Join(texts, "; ")).
		Next("correct the named fields and send it again; `validate_only` checks without changing anything")
	e.Fields = c.bad
	return nil, e
}

func (c *checker) name() {
	if _, err := subject.ParseService(c.m.GetName()); err != nil {
		c.say("name", "%v", err)
	}
}

func (c *checker) format() {
	m := c.m
	native := m.GetFormat() == solov1.Format_FORMAT_BINARY
	switch {
	case m.GetFormat() == solov1.Format_FORMAT_UNSPECIFIED:
		c.say("format", "say what the code is: go, wasm or binary")
	case native && m.GetProtocol() == solov1.Protocol_PROTOCOL_UNSPECIFIED:
		m.Protocol = solov1.Protocol_PROTOCOL_HTTP
	case !native && m.GetProtocol() != solov1.Protocol_PROTOCOL_UNSPECIFIED:
		c.say("protocol", "only a binary has a protocol; remove it, or set format to binary")
	}
	if m.GetFormat() == solov1.Format_FORMAT_GO_SOURCE && len(m.GetArgs()) > 0 {
		c.say("args", "a Go service has no command line; use env, or set format to wasm or binary")
	}
	if m.GetReplicas() == 0 {
		m.Replicas = 1
	}
}

func (c *checker) operations() {
	seen := map[string]bool{}
	for i, o := range c.m.GetOperations() {
		if seen[o.GetName()] {
			c.say(fmt.Sprintf("operations[%d].name", i), "%q stands there twice; each operation once", o.GetName())
		}
		seen[o.GetName()] = true
		if o.GetTimeout().AsDuration() == 0 {
			o.Timeout = durationpb.New(DefaultTimeout)
		}
	}
}

func (c *checker) limits() {
	if c.m.Limits == nil {
		c.m.Limits = &solov1.Limits{}
	}
	l := c.m.Limits
	switch {
	case l.MemoryBytes == 0:
		l.MemoryBytes = DefaultMemory
	case l.MemoryBytes < MinMemory:
		c.say("limits.memory_bytes", "%d bytes is less than the 64 KiB that the smallest instance needs", l.MemoryBytes)
	}
	if l.Mailbox == 0 {
		l.Mailbox = DefaultMailbox
	}
	if l.StateBytes == 0 {
		l.StateBytes = DefaultState
	}
	if l.StateBytes > MaxState {
		c.say("limits.state_bytes", "%d bytes is more than the 1 GiB that one service may keep: its state is held in memory; keep more than that in a store of its own", l.StateBytes)
	}
	if l.Actions == nil {
		l.Actions = &solov1.LimitActions{}
	}
	a := l.Actions
	fill(&a.Memory, solov1.LimitAction_LIMIT_ACTION_KILL)
	fill(&a.Cpu, solov1.LimitAction_LIMIT_ACTION_WARN)
	fill(&a.Mailbox, solov1.LimitAction_LIMIT_ACTION_THROTTLE)
	if a.Mailbox == solov1.LimitAction_LIMIT_ACTION_KILL {
		c.say("limits.actions.mailbox", "killing an instance does not empty the mailbox; use throttle or warn")
	}
	for path, v := range map[string]solov1.LimitAction{"memory": a.Memory, "cpu": a.Cpu, "mailbox": a.Mailbox} {
		if _, ok := solov1.LimitAction_name[int32(v)]; !ok {
			c.say("limits.actions."+path, "no such action; use kill, throttle or warn")
		}
	}
}

func fill(a *solov1.LimitAction, def solov1.LimitAction) {
	if *a == solov1.LimitAction_LIMIT_ACTION_UNSPECIFIED {
		*a = def
	}
}

func (c *checker) grants() {
	seen := map[string]bool{}
	for i, g := range c.m.GetGrants() {
		path := fmt.Sprintf("grants[%d]", i)
		r, err := capability.ParseRule(g)
		if err != nil {
			c.say(path, "%v", err)
			continue
		}
		if s := r.String(); seen[s] {
			c.say(path, "%q stands there twice", s)
		} else {
			seen[s] = true
		}
	}
}

func (c *checker) state() {
	if c.m.State == nil {
		c.m.State = &solov1.StatePolicy{}
	}
	s := c.m.State
	switch d := s.GetFlushInterval().AsDuration(); {
	case d < 0 || d > MaxFlushInterval:
		c.say("state.flush_interval", "%s is not between 0 and %s", d, MaxFlushInterval)
	case d == 0 && !s.FlushThrough:
		s.FlushInterval = durationpb.New(DefaultFlushInterval)
	case d > 0 && s.FlushThrough:
		c.say("state.flush_through", "write-through has no flush_interval; give one of the two")
	}
	seen := map[string]bool{}
	external, kept := false, false
	for i, k := range s.GetKeys() {
		path := fmt.Sprintf("state.keys[%d].match", i)
		if p := strings.IndexByte(k.GetMatch(), '*'); p >= 0 && p != len(k.GetMatch())-1 {
			c.say(path, "%q: a `*` may stand at the end only", k.GetMatch())
		}
		if seen[k.GetMatch()] {
			c.say(path, "%q stands there twice; the first one wins always", k.GetMatch())
		}
		if seen["*"] {
			c.say(path, "%q comes after `*`, which matches everything; put `*` last", k.GetMatch())
		}
		seen[k.GetMatch()] = true
		external = external || k.GetMode() == solov1.StateMode_STATE_MODE_EXTERNAL
		kept = kept || k.GetMode() != solov1.StateMode_STATE_MODE_EXTERNAL
	}
	if external && kept {
		c.say("state.keys", "a service keeps its state itself (external) or leaves it to Solo, not both")
	}
}

func (c *checker) restart() {
	if c.m.Restart == nil {
		c.m.Restart = &solov1.RestartPolicy{}
	}
	r := c.m.Restart
	if r.Type == solov1.RestartType_RESTART_TYPE_TEMPORARY && (r.Max > 0 || r.GetWithin().AsDuration() > 0) {
		c.say("restart", "a temporary service is never restarted, so max and within mean nothing; remove them or the type")
	}
	if r.Type == solov1.RestartType_RESTART_TYPE_UNSPECIFIED {
		r.Type = solov1.RestartType_RESTART_TYPE_PERMANENT
	}
	if r.Max == 0 {
		r.Max = DefaultRestarts
	}
	switch d := r.GetWithin().AsDuration(); {
	case d == 0:
		r.Within = durationpb.New(DefaultWithin)
	case d < 100*time.Millisecond:
		c.say("restart.within", "%s is too short to count restarts in; give at least 100ms", d)
	}
}

func (c *checker) update() {
	if c.m.Update == nil {
		c.m.Update = &solov1.UpdatePolicy{}
	}
	u := c.m.Update
	if u.Strategy == solov1.Strategy_STRATEGY_UNSPECIFIED {
		u.Strategy = solov1.Strategy_STRATEGY_RECREATE
	}
	if len(u.GetSteps()) > 0 && u.Strategy != solov1.Strategy_STRATEGY_CANARY {
		c.say("update.steps", "only the canary strategy has steps")
	}
	if (u.MaxSurge > 0 || u.MaxUnavailable > 0) && u.Strategy != solov1.Strategy_STRATEGY_ROLLING {
		c.say("update.max_surge", "only the rolling strategy has max_surge and max_unavailable")
	}
	if u.MaxUnavailable > c.m.GetReplicas() {
		c.say("update.max_unavailable", "%d instances cannot be missing of %d", u.MaxUnavailable, c.m.GetReplicas())
	}
}

func (c *checker) env() {
	total := 0
	names := make([]string, 0, len(c.m.GetEnv()))
	for k, v := range c.m.GetEnv() {
		names = append(names, k)
		total += len(k) + len(v)
	}
	slices.Sort(names)
	for _, k := range names {
		switch {
		case strings.HasPrefix(k, "SOLO_"):
			c.say("env."+k, "names that begin with SOLO_ are Solo's own")
		case strings.ContainsRune(c.m.Env[k], 0):
			c.say("env."+k, "a value cannot hold a zero byte")
		}
	}
	for i, a := range c.m.GetArgs() {
		if strings.ContainsRune(a, 0) {
			c.say(fmt.Sprintf("args[%d]", i), "an argument cannot hold a zero byte")
		}
	}
	if total > MaxEnvBytes {
		c.say("env", "%d bytes in all; at most %d", total, MaxEnvBytes)
	}
}

// Supported refuses what a valid manifest may ask for and this version does not do: the fault is
// UNIMPLEMENTED and says what works.
func Supported(m *solov1.Manifest) error {
	if m.GetProtocol() == solov1.Protocol_PROTOCOL_NATS {
		return fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "manifest.protocol: a native service that connects to the bus itself is not supported").
			AddField("manifest.protocol", "use http or stdio").Next("serve HTTP on the Unix socket that SOLO_LISTEN names (protocol http), or answer one call a run (protocol stdio)")
	}
	return nil
}

// Strategy refuses an update by any strategy but RECREATE, saying so.
func Strategy(m *solov1.Manifest) error {
	if s := m.GetUpdate().GetStrategy(); s != solov1.Strategy_STRATEGY_UNSPECIFIED && s != solov1.Strategy_STRATEGY_RECREATE {
		return fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "manifest.update.strategy: %s is not supported; RECREATE is", strings.TrimPrefix(s.String(), "STRATEGY_")).
			AddField("manifest.update.strategy", "use recreate").Next("repeat the update with strategy recreate: the old revision stops, the new one starts, state is kept")
	}
	return nil
}
