package runner_test

import (
	"strings"
	"testing"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestAServiceWithoutItsHandlers starts a Go service whose manifest names more than its code answers.
func TestAServiceWithoutItsHandlers(t *testing.T) {
	r := start(t)
	m := wasm("acme/kitchen")
	m.Format = solov1.Format_FORMAT_GO_SOURCE
	m.Operations = []*solov1.Operation{{Name: "echo"}, {Name: "bake"}}
	if _, err := r.tryPlace(r.request(m, code.kitchen)); err == nil || !strings.Contains(err.Error(), `operations[1].name: no handler in the code for "bake"`) {
		t.Fatalf("%v", err)
	}
	m.Operations = m.Operations[:1]
	r.place(r.request(m, code.kitchen))
	r.want("acme/kitchen", "echo", "hello", "hello")
}
