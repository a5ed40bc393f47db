package front

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
)

// No pattern of the contract reaches a client as it is.
func TestPatternsAreSaidInWords(t *testing.T) {
	v, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	m := func(m *solov1.Manifest) proto.Message {
		m.Format = solov1.Format_FORMAT_GO_SOURCE
		return &solov1.DeployRequest{RequestId: "r", Manifest: m, Code: &solov1.Code{Kind: &solov1.Code_Archive{Archive: []byte("x")}}}
	}
	for _, c := range []struct {
		req        proto.Message
		path, want string
	}{
		{&solov1.CallRequest{Service: "a/b"}, "op", "is missing: want an operation"},
		{&solov1.CallRequest{Service: "a/b", Op: "Bad!"}, "op", `"Bad!": want an operation: 1-63 characters`},
		{&solov1.CallRequest{Service: "a/b", Op: strings.Repeat("é", 500)}, "op", "...\": want an operation"},
		{m(&solov1.Manifest{Name: "A"}), "manifest.name", `"A": want namespace/name`},
		{m(&solov1.Manifest{}), "manifest.name", "is missing: want namespace/name"},
		{m(&solov1.Manifest{Name: "a/b", Operations: []*solov1.Operation{{Name: "X"}}}), "manifest.operations[0].name", `"X": want an operation`},
		{m(&solov1.Manifest{Name: "a/b", Env: map[string]string{"1": ""}}), `manifest.env["1"]`, `"1": want a variable`},
		{&solov1.DeployRequest{RequestId: "r", Manifest: &solov1.Manifest{Name: "a/b", Format: solov1.Format_FORMAT_WASM}, Code: &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: "12"}}}, "code.sha256", `"12": want a SHA-256`},
		{&solov1.UploadArtifactRequest{Sha256: "12"}, "sha256", `"12": want a SHA-256`},
	} {
		f := fault.From(valid(v, c.req))
		if f == nil || len(f.Fields) == 0 || f.Fields[0].Path != c.path || !strings.Contains(f.Fields[0].Description, c.want) || strings.Contains(f.Message, "regex") {
			t.Errorf("%v: %+v", c.req, f)
		}
	}
	if err := valid(v, &solov1.CallRequest{Service: "a/b", Op: "say"}); err != nil {
		t.Error(err)
	}
}
