package idem_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/jstest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// What is kept of an answer is bounded; the first caller has all of it.
func TestALargeAnswerIsKeptReduced(t *testing.T) {
	s := jstest.New(t)
	st := open(t, s)
	long := strings.Repeat("x", 300<<10)
	answer := func() *solov1.DeployResponse {
		return &solov1.DeployResponse{StartupMs: 7, Service: &solov1.Service{
			Name: "acme/a", Revision: 3, LastError: long, Manifest: &solov1.Manifest{Name: "acme/a", Replicas: 2, Env: map[string]string{"A": long}},
		}, Diagnostics: []*solov1.Diagnostic{{Message: long}}}
	}
	ask := func() *solov1.DeployResponse {
		r, _, err := idem.Do(t.Context(), st, caller("U1", "d"), "r", nil, func() (*solov1.DeployResponse, error) { return answer(), nil })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask(); !proto.Equal(r, answer()) {
		t.Error("the first answer is not whole")
	}
	r := ask()
	if proto.Size(r) > idem.MaxAnswer || r.GetStartupMs() != 7 || r.GetService().GetRevision() != 3 || r.GetService().GetManifest().GetReplicas() != 2 {
		t.Errorf("%d bytes: %v", proto.Size(r), r.GetService().GetName())
	}
}
