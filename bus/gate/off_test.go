//go:build checksoff

package gate

import (
	"testing"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/subject"
)

// The build that shows what the server refuses alone has no gate left: whoever asks, whatever
// for, without a lease, is let through.
func TestGateOff(t *testing.T) {
	t.Setenv(check.Variable, string(check.Gate))
	table, s := NewTable(), subject.Service{Namespace: "bob", Name: "counter"}
	if d := table.Call("nobody", s, "get"); d != Allowed {
		t.Errorf("call: %v", d)
	}
	if d := table.System(subject.System{Component: subject.Deployer, Op: "kill", Service: s, ID: "nobody"}); d != Allowed {
		t.Errorf("system call: %v", d)
	}
	if !check.On(check.Lease) {
		t.Error("more than the one named is off")
	}
}
