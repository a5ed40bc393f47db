package runner

import (
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/guest/abi"
)

func TestMissingHandlers(t *testing.T) {
	ops := []*solov1.Operation{{Name: "get"}, {Name: "put"}}
	for name, c := range map[string]struct {
		wanted []*solov1.Operation
		answer error
		want   string
	}{
		"all there":       {ops, engine.UnknownOp("", abi.Strings("get", "list", "put").Encode()), ""},
		"none named":      {nil, engine.UnknownOp("", abi.Strings("x").Encode()), ""},
		"one missing":     {ops, engine.UnknownOp("", abi.Strings("get").Encode()), "operations[1].name: no handler in the code"},
		"none registered": {nil, engine.UnknownOp("", nil), "no operations: register handlers in init(), not main()"},
		"another answer":  {ops, fault.Internal(nil, "x"), ""},
		"an answer":       {ops, nil, ""},
	} {
		err := missingHandlers(c.wanted, c.answer)
		if (err == nil) != (c.want == "") || err != nil && (!fault.Is(err, fault.ReasonStartFailed) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
