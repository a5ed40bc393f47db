package deployer_test

import (
	"testing"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// A digest is no secret: it stands in statuses and in the audit trail. Whoever has only that gets
// neither the code nor the news that it is here.
func TestAttackCodeOfAnotherNamespaceByItsDigest(t *testing.T) {
	w := start(t)
	module := kitchen(t)
	sha := sum(module)
	acme, acme2 := w.holder(t, "svc:acme/*=*"), w.holder(t, "svc:acme/*=*")
	evil := w.holder(t, "svc:evil/*=*")
	mustDeploy(t, acme, manifest("acme/kitchen", wasm), archive(module))

	unknown := fault.From(func() error {
		_, err := deploy(t, evil, manifest("evil/none", wasm), bySHA(sum([]byte("?"))))
		return err
	}())
	for name, format := range map[string]solov1.Format{"evil/module": wasm, "evil/source": source, "evil/binary": binary} {
		for _, check := range []bool{true, false} {
			_, err := ask[solov1.DeployResponse](t, evil, "deploy", name, &solov1.DeployRequest{Manifest: manifest(name, format), Code: bySHA(sha), ValidateOnly: check})
			e := fault.From(err)
			if err == nil || e.Reason != fault.ReasonArtifactNotFound || e.Code != unknown.Code || len(e.Message) != len(unknown.Message) || e.Help != unknown.Help || len(e.Fields) != len(unknown.Fields) {
				t.Errorf("%s: %v, of an unknown one %v", name, err, unknown)
			}
		}
	}
	// The probe of an upload tells nothing, nor does the end of one.
	const chunk = 512 << 10
	probe := &kernelv1.PutChunkRequest{Sha256: sha, Upload: "probe", Data: module[:chunk]}
	if r, err := ask[kernelv1.PutChunkResponse](t, evil, "upload", "", probe); err != nil || r.GetStored() || r.GetExisted() {
		t.Errorf("%v %v", r, err)
	}
	// In the namespace itself a kept revision is enough.
	mustDeploy(t, acme2, manifest("acme/second", wasm), bySHA(sha))
	// Whoever has the bytes may have them run, and is not asked for them twice.
	mustDeploy(t, evil, manifest("evil/own", wasm), upload(t, evil, module))
	if r, err := ask[kernelv1.PutChunkResponse](t, evil, "upload", "", &kernelv1.PutChunkRequest{Sha256: sha, Upload: "again", Data: module[:chunk]}); err != nil || !r.GetStored() || !r.GetExisted() {
		t.Errorf("%v %v", r, err)
	}
}
