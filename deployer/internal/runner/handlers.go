package runner

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// checkHandlers refuses a Go service that cannot answer what it is there for. The guest SDK answers an
// operation that is none with the list of those it has; other guests need not, and are not asked.
func (p *placement) checkHandlers(ctx context.Context) error {
	if p.manifest.GetFormat() != solov1.Format_FORMAT_GO_SOURCE {
		return nil
	}
	s := p.slots[0]
	s.mu.Lock()
	in := s.in
	s.mu.Unlock()
	if in == nil {
		return nil // it has ended already, and is started again
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := in.Call(ctx, instance.Request{Kind: abi.KindCall})
	return missingHandlers(p.manifest.GetOperations(), err)
}

// missingHandlers reads the answer to an operation that is none.
func missingHandlers(wanted []*solov1.Operation, answer error) error {
	f := fault.From(answer)
	if answer == nil || f.Reason != fault.ReasonOperationUnknown {
		return nil // it says nothing of its operations
	}
	list := f.Metadata["operations"]
	if list == "none" {
		return fault.New(codes.FailedPrecondition, fault.ReasonStartFailed, "no operations: register handlers in init(), not main()")
	}
	have := strings.Split(list, ", ")
	for i, op := range wanted {
		if !slices.Contains(have, op.GetName()) {
			return fault.New(codes.FailedPrecondition, fault.ReasonStartFailed, "operations[%d].name: no handler in the code for %q; it has: %s", i, op.GetName(), list)
		}
	}
	return nil
}
