package manifest_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/deployer/internal/manifest"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func good() *solov1.Manifest {
	return &solov1.Manifest{Name: "acme/billing", Format: solov1.Format_FORMAT_WASM, Operations: []*solov1.Operation{{Name: "charge"}}}
}

func TestDefaultsAreWrittenOut(t *testing.T) {
	in := good()
	m, err := manifest.Complete(in)
	if err != nil {
		t.Fatal(err)
	}
	if m.GetReplicas() != 1 || m.GetLimits().GetMemoryBytes() != manifest.DefaultMemory || m.GetLimits().GetMailbox() != manifest.DefaultMailbox ||
		m.GetLimits().GetStateBytes() != manifest.DefaultState || m.GetLimits().GetActions().GetMemory() != solov1.LimitAction_LIMIT_ACTION_KILL ||
		m.GetLimits().GetActions().GetCpu() != solov1.LimitAction_LIMIT_ACTION_WARN || m.GetLimits().GetActions().GetMailbox() != solov1.LimitAction_LIMIT_ACTION_THROTTLE {
		t.Errorf("limits: %v", m)
	}
	if m.GetOperations()[0].GetTimeout().AsDuration() != 30*time.Second || m.GetState().GetFlushInterval().AsDuration() != 5*time.Second ||
		m.GetRestart().GetType() != solov1.RestartType_RESTART_TYPE_PERMANENT || m.GetRestart().GetMax() != 5 || m.GetRestart().GetWithin().AsDuration() != 30*time.Second ||
		m.GetUpdate().GetStrategy() != solov1.Strategy_STRATEGY_RECREATE {
		t.Errorf("policies: %v", m)
	}
	if !proto.Equal(in, good()) {
		t.Error("the caller's manifest was changed")
	}
	again, err := manifest.Complete(m)
	if err != nil || !proto.Equal(again, m) {
		t.Errorf("completing twice differs: %v %v", again, err)
	}
	b := good()
	b.Format = solov1.Format_FORMAT_BINARY
	if m, err = manifest.Complete(b); err != nil || m.GetProtocol() != solov1.Protocol_PROTOCOL_HTTP {
		t.Errorf("a binary speaks http by default: %v %v", m.GetProtocol(), err)
	}
}

func TestContradictionsAreNamed(t *testing.T) {
	ms := durationpb.New(time.Millisecond)
	for name, c := range map[string]struct {
		change func(*solov1.Manifest)
		field  string
	}{
		"name":            {func(m *solov1.Manifest) { m.Name = "Acme" }, "manifest.name"},
		"format":          {func(m *solov1.Manifest) { m.Format = 0 }, "manifest.format"},
		"protocol":        {func(m *solov1.Manifest) { m.Protocol = solov1.Protocol_PROTOCOL_HTTP }, "manifest.protocol"},
		"go args":         {func(m *solov1.Manifest) { m.Format, m.Args = solov1.Format_FORMAT_GO_SOURCE, []string{"x"} }, "manifest.args"},
		"arg zero":        {func(m *solov1.Manifest) { m.Args = []string{"a\x00b"} }, "manifest.args[0]"},
		"operation twice": {func(m *solov1.Manifest) { m.Operations = append(m.Operations, &solov1.Operation{Name: "charge"}) }, "manifest.operations[1].name"},
		"memory":          {func(m *solov1.Manifest) { m.Limits = &solov1.Limits{MemoryBytes: 100} }, "manifest.limits.memory_bytes"},
		"state bytes":     {func(m *solov1.Manifest) { m.Limits = &solov1.Limits{StateBytes: 1<<30 + 1} }, "manifest.limits.state_bytes"},
		"mailbox kill": {func(m *solov1.Manifest) {
			m.Limits = &solov1.Limits{Actions: &solov1.LimitActions{Mailbox: solov1.LimitAction_LIMIT_ACTION_KILL}}
		}, "manifest.limits.actions.mailbox"},
		"no such action": {func(m *solov1.Manifest) { m.Limits = &solov1.Limits{Actions: &solov1.LimitActions{Cpu: 17}} }, "manifest.limits.actions.cpu"},
		"grant":          {func(m *solov1.Manifest) { m.Grants = []string{"nonsense"} }, "manifest.grants[0]"},
		"grant twice":    {func(m *solov1.Manifest) { m.Grants = []string{"svc:a/b=call:x", "svc:a/b=call:x"} }, "manifest.grants[1]"},
		"flush both":     {func(m *solov1.Manifest) { m.State = &solov1.StatePolicy{FlushInterval: ms, FlushThrough: true} }, "manifest.state.flush_through"},
		"flush long":     {func(m *solov1.Manifest) { m.State = &solov1.StatePolicy{FlushInterval: durationpb.New(48 * time.Hour)} }, "manifest.state.flush_interval"},
		"key star": {func(m *solov1.Manifest) {
			m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{{Match: "a*b", Mode: solov1.StateMode_STATE_MODE_NONE}}}
		}, "manifest.state.keys[0].match"},
		"key twice": {func(m *solov1.Manifest) {
			m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{{Match: "a", Mode: 1}, {Match: "a", Mode: 2}}}
		}, "manifest.state.keys[1].match"},
		"key behind star": {func(m *solov1.Manifest) {
			m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{{Match: "*", Mode: 1}, {Match: "a", Mode: 2}}}
		}, "manifest.state.keys[1].match"},
		"external and kept": {func(m *solov1.Manifest) {
			m.State = &solov1.StatePolicy{Keys: []*solov1.StateKeyPolicy{{Match: "a", Mode: solov1.StateMode_STATE_MODE_EXTERNAL}, {Match: "*", Mode: solov1.StateMode_STATE_MODE_HYBRID}}}
		}, "manifest.state.keys"},
		"temporary restarts": {func(m *solov1.Manifest) {
			m.Restart = &solov1.RestartPolicy{Type: solov1.RestartType_RESTART_TYPE_TEMPORARY, Max: 3}
		}, "manifest.restart"},
		"restart window": {func(m *solov1.Manifest) { m.Restart = &solov1.RestartPolicy{Within: ms} }, "manifest.restart.within"},
		"steps":          {func(m *solov1.Manifest) { m.Update = &solov1.UpdatePolicy{Steps: []*solov1.CanaryStep{{Weight: 1}}} }, "manifest.update.steps"},
		"surge":          {func(m *solov1.Manifest) { m.Update = &solov1.UpdatePolicy{MaxSurge: 1} }, "manifest.update.max_surge"},
		"unavailable": {func(m *solov1.Manifest) {
			m.Update = &solov1.UpdatePolicy{Strategy: solov1.Strategy_STRATEGY_ROLLING, MaxUnavailable: 9}
		}, "manifest.update.max_unavailable"},
		"env solo": {func(m *solov1.Manifest) { m.Env = map[string]string{"SOLO_X": "1"} }, "manifest.env.SOLO_X"},
		"env zero": {func(m *solov1.Manifest) { m.Env = map[string]string{"X": "\x00"} }, "manifest.env.X"},
		"env long": {func(m *solov1.Manifest) { m.Env = map[string]string{"X": strings.Repeat("x", manifest.MaxEnvBytes)} }, "manifest.env"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good()
			c.change(m)
			_, err := manifest.Complete(m)
			e, ok := errors.AsType[*fault.Error](err)
			if !ok || e.Reason != fault.ReasonManifestInvalid || e.Code != codes.InvalidArgument || len(e.Fields) != 1 || e.Fields[0].Path != c.field {
				t.Fatalf("%v: %+v", err, e)
			}
			if !strings.Contains(e.Message, c.field) || e.Help == "" {
				t.Errorf("message %q, help %q", e.Message, e.Help)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	m := &solov1.Manifest{Name: "x", Protocol: solov1.Protocol_PROTOCOL_HTTP, Grants: []string{"?", "!"}}
	_, err := manifest.Complete(m)
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || len(e.Fields) < 4 {
		t.Fatalf("%+v", e)
	}
}

func TestWhatIsNotSupportedIsSaid(t *testing.T) {
	m := good()
	if err := errors.Join(manifest.Supported(m), manifest.Strategy(m)); err != nil {
		t.Error(err)
	}
	m.Protocol = solov1.Protocol_PROTOCOL_NATS
	m.Update = &solov1.UpdatePolicy{Strategy: solov1.Strategy_STRATEGY_CANARY}
	for _, err := range []error{manifest.Supported(m), manifest.Strategy(m)} {
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != codes.Unimplemented || e.Help == "" {
			t.Errorf("%v", err)
		}
	}
}
