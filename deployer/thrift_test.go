package deployer_test

import (
	"testing"

	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/deployer/internal/engine/enginetest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// What changes nothing takes nothing: no artifact, no remembered answer.
func TestAttackRequestsThatChangeNothingFillTheDisk(t *testing.T) {
	w := start(t)
	js := w.Process(t, subject.Deployer).JS
	count := func(name string) uint64 {
		t.Helper()
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	artifacts, requests := stream.ObjStream(stream.Artifacts), stream.KVStream(stream.Requests)

	for name, c := range map[string]struct {
		format solov1.Format
		code   *solov1.Code
	}{
		"acme/module": {wasm, archive(enginetest.Echo())},
		"acme/source": {source, files(map[string]string{"main.go": "package main\n\nimport (\n\t\"context\"\n\n\t\"github.com/solo-os/solo/sdk/guest\"\n)\n\nfunc init() {\n\tguest.Handle(\"thrift\", func(_ context.Context, p []byte) ([]byte, error) { return p, nil })\n}\n\nfunc main() {}\n"})},
	} {
		for range 2 {
			r, err := ask[solov1.DeployResponse](t, w.root, "deploy", name, &solov1.DeployRequest{Manifest: manifest(name, c.format), Code: c.code, ValidateOnly: true})
			if err != nil || r.GetService().GetCodeSha256() == "" {
				t.Errorf("%s: %v %v", name, r, err)
			}
		}
	}
	if n := count(artifacts); n > 0 {
		t.Errorf("validation stored %d messages of artifacts", n)
	}
	mustDeploy(t, w.root, manifest("acme/module", wasm), archive(enginetest.Echo()))
	kill := func(id string) {
		t.Helper()
		r, err := ask[solov1.KillResponse](t, w.root, "kill", "acme/module", &solov1.KillRequest{Service: "acme/module", RequestId: id})
		if err != nil || r.GetService().GetState() != solov1.ServiceState_SERVICE_STATE_STOPPED {
			t.Fatal(r, err)
		}
	}
	kill("first")
	before := count(requests)
	for _, id := range []string{"first", "second", "third"} {
		kill(id)
	}
	if now := count(requests); now != before {
		t.Errorf("%d answers of kills of what was stopped are kept", now-before)
	}
}
