package runner

import (
	"errors"
	"strings"
	"testing"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/proto/fault"
)

// A start that took too long says so, keeps what it died of and is of the kind that is not repeated.
func TestAnOverdueStart(t *testing.T) {
	for native, want := range map[bool]string{false: "init() did not return within 30 s", true: "did not become ready within 30 s"} {
		err := overdue(native, &instance.Crash{Kind: "deadline"})
		if _, ok := errors.AsType[*instance.Crash](err); !ok || !fault.Is(err, fault.ReasonStartFailed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}
