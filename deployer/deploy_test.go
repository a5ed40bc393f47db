package deployer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	wasm   = solov1.Format_FORMAT_WASM
	source = solov1.Format_FORMAT_GO_SOURCE
	binary = solov1.Format_FORMAT_BINARY
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func running(r *kernelv1.Registration) bool {
	return r.GetState() == solov1.ServiceState_SERVICE_STATE_RUNNING
}

func TestAModuleIsDeployedCalledKilledAndDeployedAgain(t *testing.T) {
	w := start(t)
	module := kitchen(t)
	first := mustDeploy(t, w.root, manifest("acme/kitchen", wasm), archive(module))
	s := first.GetService()
	if s.GetState() != solov1.ServiceState_SERVICE_STATE_RUNNING || s.GetRevision() != 1 || s.GetCodeSha256() != sum(module) || len(s.GetInstances()) != 1 ||
		s.GetDeployedBy() != w.root.ID || first.GetStartupMs() <= 0 || s.GetManifest().GetReplicas() != 1 {
		t.Fatalf("%v", first)
	}
	if got, err := call(t, w.root, "acme/kitchen", "echo", "hello"); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	if got, err := call(t, w.root, "acme/kitchen", "incr", ""); err != nil || got != "1" {
		t.Fatal(got, err)
	}
	if _, err := deploy(t, w.root, manifest("acme/kitchen", wasm), archive(module)); !fault.Is(err, fault.ReasonServiceExists) {
		t.Fatalf("deployed over a running service: %v", err)
	}

	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen", Etag: "1234567"}); !fault.Is(err, fault.ReasonConflict) {
		t.Fatalf("killed at another etag: %v", err)
	}
	killed, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen", Etag: s.GetEtag(), GracePeriod: durationpb.New(0)})
	if err != nil || killed.GetService().GetState() != solov1.ServiceState_SERVICE_STATE_STOPPED || len(killed.GetService().GetInstances()) != 0 {
		t.Fatalf("%v %v", killed, err)
	}
	if _, err := call(t, w.root, "acme/kitchen", "echo", ""); !fault.Is(err, fault.ReasonUnavailable) {
		t.Fatalf("a killed service answered: %v", err)
	}
	if w.authority.Records("acme/kitchen") != nil {
		t.Error("a killed service keeps its rights")
	}
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen"}); err != nil {
		t.Errorf("killing what is stopped: %v", err)
	}

	again := mustDeploy(t, w.root, manifest("acme/kitchen", wasm), bySHA(sum(module)))
	if again.GetService().GetRevision() != 2 || !again.GetCached() {
		t.Fatalf("%v", again)
	}
	if got, err := call(t, w.root, "acme/kitchen", "incr", ""); err != nil || got != "2" {
		t.Fatalf("state is not back: %q %v", got, err)
	}

	purged, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen", Purge: true})
	if err != nil || purged.GetService().GetState() != solov1.ServiceState_SERVICE_STATE_STOPPED {
		t.Fatal(purged, err)
	}
	if w.registry.Get("acme/kitchen") != nil {
		t.Error("a purged service is registered")
	}
	if _, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/kitchen", &solov1.KillRequest{Service: "acme/kitchen"}); !fault.Is(err, fault.ReasonServiceNotFound) {
		t.Errorf("%v", err)
	}
	mustDeploy(t, w.root, manifest("acme/kitchen", wasm), bySHA(sum(module)))
	if got, err := call(t, w.root, "acme/kitchen", "incr", ""); err != nil || got != "1" {
		t.Fatalf("state outlived a purge: %q %v", got, err)
	}
	for _, kind := range []string{"deployed", "running", "stopped"} {
		w.registry.AwaitEvent(t, "acme/kitchen", kind)
	}
	w.registry.AwaitReport(t, func(r *kernelv1.ReportRequest) bool {
		return len(r.GetPlacements()) == 1 && len(r.GetPlacements()[0].GetInstances()) == 1 && r.GetCpus() > 0 && r.GetMemoryBytes() > 0
	})
}

func TestSourceIsBuiltAndDeployed(t *testing.T) {
	w := start(t)
	code := files(map[string]string{"main.go": `package main

import (
	"context"
	"strings"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("upper", func(_ context.Context, p []byte) ([]byte, error) { return []byte(strings.ToUpper(string(p))), nil })
}

func main() {}
`})
	r := mustDeploy(t, w.root, manifest("acme/upper", source), code)
	if r.GetCached() {
		t.Error("a first build came from the cache")
	}
	if got, err := call(t, w.root, "acme/upper", "upper", "abc"); err != nil || got != "ABC" {
		t.Fatal(got, err)
	}
	if r = mustDeploy(t, w.root, manifest("acme/upper2", source), code); !r.GetCached() {
		t.Error("the same source was built again")
	}
	kept := w.registry.Get("acme/upper2").GetRevisions()[0]
	if r = mustDeploy(t, w.root, manifest("acme/upper3", source), bySHA(kept.GetSourceSha256())); !r.GetCached() {
		t.Error("the archived source was built again")
	}
	_, err := deploy(t, w.root, manifest("acme/broken", source), files(map[string]string{"main.go": "package main\n\nfunc main() { x }\n"}))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Reason != fault.ReasonBuildFailed || !strings.Contains(e.Message, "main.go:3:15") {
		t.Fatalf("%v", err)
	}
	if w.registry.Get("acme/broken") != nil || w.authority.Records("acme/broken") != nil {
		t.Error("a source that does not compile left something")
	}
}

func TestANativeServiceIsDeployed(t *testing.T) {
	w := start(t)
	r := mustDeploy(t, w.root, manifest("acme/echo", binary), archive(native(t)))
	if len(r.GetService().GetEnforcement()) == 0 {
		t.Error("nothing is said about how limits hold")
	}
	if got, err := call(t, w.root, "acme/echo", "echo", "native"); err != nil || got != "native" {
		t.Fatal(got, err)
	}
}

func TestACodeThatDoesNotStartIsFailedAndCanBeReplaced(t *testing.T) {
	w := start(t)
	m := manifest("acme/kitchen", wasm)
	m.Env = map[string]string{"FAIL_INIT": "1"}
	_, err := deploy(t, w.root, m, archive(kitchen(t)))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Reason != fault.ReasonStartFailed {
		t.Fatalf("%v", err)
	}
	reg := w.registry.Get("acme/kitchen")
	if reg.GetState() != solov1.ServiceState_SERVICE_STATE_FAILED || reg.GetLastError() == "" {
		t.Fatalf("%v", reg)
	}
	m.Env = nil
	if r := mustDeploy(t, w.root, m, archive(kitchen(t))); r.GetService().GetRevision() != 2 || r.GetService().GetLastError() != "" {
		t.Errorf("%v", r)
	}
}

func TestBadInputIsRefusedAndLeavesNothing(t *testing.T) {
	w := start(t)
	module := kitchen(t)
	flipped := bytes.Clone(module)
	for i := len(flipped) / 2; i < len(flipped)/2+4000; i++ {
		flipped[i] ^= 0x55
	}
	contradictory := manifest("acme/bad", wasm)
	contradictory.Protocol = solov1.Protocol_PROTOCOL_HTTP
	wide := manifest("acme/bad", wasm)
	wide.Grants = []string{"svc:other/thing=call:x"}
	tight := manifest("acme/bad", wasm)
	tight.Limits = &solov1.Limits{MemoryBytes: 64 << 10}
	nats := manifest("acme/bad", binary)
	nats.Protocol = solov1.Protocol_PROTOCOL_NATS
	alice := w.holder(t, "svc:acme/*=*")
	for name, c := range map[string]struct {
		m      *solov1.Manifest
		code   *solov1.Code
		reason string
	}{
		"truncated module": {manifest("acme/bad", wasm), archive(module[:len(module)/2]), fault.ReasonModuleInvalid},
		"flipped module":   {manifest("acme/bad", wasm), archive(flipped), fault.ReasonModuleInvalid},
		"no export":        {manifest("acme/bad", wasm), archive(enginetest.Module{HandleExport: "other", Handle: []byte{0, 0x41, 0, 0x0b}}.Encode()), fault.ReasonModuleExportMissing},
		"text as module":   {manifest("acme/bad", wasm), archive([]byte("hello")), fault.ReasonModuleInvalid},
		"text as binary":   {manifest("acme/bad", binary), archive([]byte("hello")), fault.ReasonBinaryInvalid},
		"module as binary": {manifest("acme/bad", binary), archive(module), fault.ReasonBinaryInvalid},
		"module as source": {manifest("acme/bad", source), archive(module), fault.ReasonInvalidArgument},
		"files as module":  {manifest("acme/bad", wasm), files(map[string]string{"a": "b"}), fault.ReasonInvalidArgument},
		"empty":            {manifest("acme/bad", wasm), archive(nil), fault.ReasonInvalidArgument},
		"unknown artifact": {manifest("acme/bad", wasm), bySHA(sum([]byte("?"))), fault.ReasonArtifactNotFound},
		"contradiction":    {contradictory, archive(module), fault.ReasonManifestInvalid},
		"little memory":    {tight, archive(module), fault.ReasonManifestInvalid},
		"too wide a grant": {wide, archive(module), fault.ReasonGrantTooWide},
		"protocol nats":    {nats, archive(native(t)), fault.ReasonUnimplemented},
		"no format":        {manifest("acme/bad", 0), archive(module), fault.ReasonManifestInvalid},
		"no code":          {manifest("acme/bad", wasm), &solov1.Code{}, fault.ReasonInvalidArgument},
	} {
		_, err := deploy(t, alice, c.m, c.code)
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Reason != c.reason {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Code == codes.Internal || len(e.Fields) == 0 && e.Code == codes.InvalidArgument {
			t.Errorf("%s: code %s, fields %v", name, e.Code, e.Fields)
		}
		if w.registry.Get("acme/bad") != nil || w.authority.Records("acme/bad") != nil {
			t.Errorf("%s left something", name)
		}
	}
	// The name in the manifest is not the name that the gate decided about.
	if _, err := ask[solov1.DeployResponse](t, alice, "deploy", "acme/one", &solov1.DeployRequest{Manifest: manifest("other/two", wasm), Code: bySHA(sum(module))}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("%v", err)
	}
	// Nobody else was disturbed.
	mustDeploy(t, alice, manifest("acme/good", wasm), archive(module))
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	w := start(t)
	m := manifest("acme/kitchen", wasm)
	m.Grants = []string{"svc:acme/other=call:x"}
	r, err := ask[solov1.DeployResponse](t, w.root, "deploy", m.GetName(), &solov1.DeployRequest{Manifest: m, Code: upload(t, w.root, kitchen(t)), ValidateOnly: true})
	if err != nil || r.GetService().GetRevision() != 1 || r.GetService().GetManifest().GetReplicas() != 1 {
		t.Fatalf("%v %v", r, err)
	}
	if w.registry.Get("acme/kitchen") != nil || w.authority.Records("acme/kitchen") != nil {
		t.Error("validation left something")
	}
	m.Grants = []string{"nonsense"}
	if _, err := ask[solov1.DeployResponse](t, w.root, "deploy", m.GetName(), &solov1.DeployRequest{Manifest: m, Code: upload(t, w.root, kitchen(t)), ValidateOnly: true}); !fault.Is(err, fault.ReasonManifestInvalid) {
		t.Errorf("%v", err)
	}
}

func TestARequestIDIsCarriedOutOnce(t *testing.T) {
	w := start(t)
	req := &solov1.DeployRequest{RequestId: "one", Manifest: manifest("acme/kitchen", wasm), Code: upload(t, w.root, kitchen(t))}
	first, err := ask[solov1.DeployResponse](t, w.root, "deploy", "acme/kitchen", req)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ask[solov1.DeployResponse](t, w.root, "deploy", "acme/kitchen", req)
	if err != nil || !proto.Equal(first, second) {
		t.Fatalf("%v %v", second, err)
	}
	req.Manifest.Replicas = 2
	if _, err := ask[solov1.DeployResponse](t, w.root, "deploy", "acme/kitchen", req); !fault.Is(err, fault.ReasonRequestIDReused) {
		t.Fatal(err)
	}
}

func TestUpdateAndRollback(t *testing.T) {
	w := start(t)
	m := manifest("acme/kitchen", wasm)
	m.Env = map[string]string{"V": "1"}
	mustDeploy(t, w.root, m, archive(kitchen(t)))
	if _, err := call(t, w.root, "acme/kitchen", "incr", ""); err != nil {
		t.Fatal(err)
	}
	update := func(m *solov1.Manifest, c *solov1.Code, expected uint64) (*solov1.UpdateResponse, error) {
		return ask[solov1.UpdateResponse](t, w.root, "update", m.GetName(), &solov1.UpdateRequest{Manifest: m, Code: c, ExpectedRevision: expected})
	}
	version := func(want string) {
		t.Helper()
		awaitCall(t, w.root, "acme/kitchen", "env", "V", want)
	}
	version("1")
	m.Env["V"] = "2"
	r, err := update(m, nil, 1)
	if err != nil || r.GetRollout().GetState() != solov1.RolloutState_ROLLOUT_STATE_SUCCEEDED || r.GetRollout().GetFromRevision() != 1 || r.GetRollout().GetToRevision() != 2 {
		t.Fatal(r, err)
	}
	version("2")
	if got, err := call(t, w.root, "acme/kitchen", "incr", ""); err != nil || got != "2" {
		t.Errorf("state after the update: %q %v", got, err)
	}
	if _, err := update(m, nil, 1); !fault.Is(err, fault.ReasonConflict) {
		t.Errorf("%v", err)
	}

	// What does not start is taken back.
	m.Env["FAIL_INIT"] = "1"
	_, err = update(m, nil, 0)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Reason != fault.ReasonStartFailed || !strings.Contains(e.Message, "revision 2 runs again") {
		t.Fatalf("%v", err)
	}
	version("2")
	if reg := w.registry.Get("acme/kitchen"); reg.GetRollout().GetState() != solov1.RolloutState_ROLLOUT_STATE_ROLLED_BACK || !running(reg) || reg.GetRevision() != 2 {
		t.Errorf("%v", reg)
	}

	b, err := ask[solov1.RollbackResponse](t, w.root, "rollback", "acme/kitchen", &solov1.RollbackRequest{Service: "acme/kitchen"})
	if err != nil || b.GetRollout().GetToRevision() != 1 {
		t.Fatal(b, err)
	}
	version("1")
	for rev, reason := range map[uint64]string{1: fault.ReasonInvalidArgument, 99: fault.ReasonRevisionNotFound, 0: fault.ReasonRevisionNotFound} {
		if _, err := ask[solov1.RollbackResponse](t, w.root, "rollback", "acme/kitchen", &solov1.RollbackRequest{Service: "acme/kitchen", Revision: rev}); !fault.Is(err, reason) {
			t.Errorf("rollback to %d: %v", rev, err)
		}
	}
	delete(m.Env, "FAIL_INIT")
	for name, c := range map[string]*solov1.UpdateRequest{
		"pause":  {Manifest: m, Action: solov1.UpdateAction_UPDATE_ACTION_PAUSE},
		"canary": {Manifest: &solov1.Manifest{Name: m.GetName(), Format: wasm, Update: &solov1.UpdatePolicy{Strategy: solov1.Strategy_STRATEGY_CANARY}}},
	} {
		if _, err := ask[solov1.UpdateResponse](t, w.root, "update", m.GetName(), c); !fault.Is(err, fault.ReasonUnimplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := manifest("acme/kitchen", binary)
	if _, err := update(other, nil, 0); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("another format without code: %v", err)
	}
	if _, err := update(manifest("acme/nothing", wasm), nil, 0); !fault.Is(err, fault.ReasonServiceNotFound) {
		t.Errorf("%v", err)
	}
}

func TestRightsToCallOut(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/callee", wasm), archive(kitchen(t)))
	alice := w.holder(t, "svc:acme/*=*")
	m := manifest("acme/caller", wasm)
	m.Grants = []string{"svc:acme/callee=call:echo"}
	r := mustDeploy(t, alice, m, archive(kitchen(t)))
	if g := r.GetService().GetGrants(); len(g) != 1 || !g[0].GetLive() {
		t.Fatalf("%v", g)
	}
	if got, err := call(t, w.root, "acme/caller", "call", "acme/callee echo hi"); err != nil || got != "hi" {
		t.Fatal(got, err)
	}
	if _, err := call(t, w.root, "acme/caller", "call", "acme/callee env V"); err == nil {
		t.Fatal("a service called what it was not granted")
	}
	// They end with the holder who granted them; the service goes on.
	w.Revoke(t, alice.ID)
	if _, err := call(t, w.root, "acme/caller", "call", "acme/callee echo hi"); err == nil {
		t.Fatal("a service called with revoked rights")
	}
	if got, err := call(t, w.root, "acme/caller", "echo", "still"); err != nil || got != "still" {
		t.Fatal(got, err)
	}
	// It starts again without them.
	killRunners(t, w)
	awaitCall(t, w.root, "acme/caller", "echo", "back", "back")
}

func TestUpload(t *testing.T) {
	w := start(t)
	module := kitchen(t)
	put := func(r *kernelv1.PutChunkRequest) (*kernelv1.PutChunkResponse, error) {
		return ask[kernelv1.PutChunkResponse](t, w.root, "upload", "", r)
	}
	const chunk = 512 << 10
	upload(t, w.root, module)
	r, err := put(&kernelv1.PutChunkRequest{Sha256: sum(module), Upload: "again", Data: module[:chunk]})
	if err != nil || !r.GetExisted() || !r.GetStored() || r.GetSize() != uint64(len(module)) {
		t.Fatal(r, err)
	}
	mustDeploy(t, w.root, manifest("acme/kitchen", wasm), bySHA(sum(module)))
}

func TestMetrics(t *testing.T) {
	w := start(t)
	mustDeploy(t, w.root, manifest("acme/kitchen", wasm), archive(kitchen(t)))
	if _, err := deploy(t, w.root, manifest("acme/bad", binary), archive([]byte("hello"))); err == nil {
		t.Fatal("deployed a text")
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(w.Home, "run", "deployer.sock"))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://deployer/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`solo_deployment_count{format="wasm",result="ok"} 1`, `solo_deployment_count{format="binary",result="failed"} 1`,
		`solo_deployment_count{format="go_source",result="ok"} 0`, `solo_service_startup_ms_count{format="wasm"} 1`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s", want)
		}
	}
}
