//go:build gatesoff

package gate

import (
	"testing"

	"github.com/solo-os/solo/proto/subject"
)

// The build that shows what the server refuses alone has no gate left: whoever asks, whatever
// for, without a lease, is let through.
func TestGatesOff(t *testing.T) {
	table, s := NewTable(), subject.Service{Namespace: "bob", Name: "counter"}
	if d := table.Call("nobody", s, "get"); d != Allowed {
		t.Errorf("call: %v", d)
	}
	if d := table.System(subject.System{Component: subject.Deployer, Op: "kill", Service: s, ID: "nobody"}); d != Allowed {
		t.Errorf("system call: %v", d)
	}
}
