//go:build checksoff

package check

import (
	"os"
	"strings"
	"sync"
)

// Switchable tells whether checks can be switched off in this build.
const Switchable = true

// off reads the names once: nobody switches anything in a running process.
var off = sync.OnceValue(func() map[Name]bool {
	m := map[Name]bool{}
	for n := range strings.SplitSeq(os.Getenv(Variable), ",") {
		m[Name(n)] = true
	}
	return m
})

// On tells whether a check is made.
func On(n Name) bool { return !off()[n] }
