// Package sdk carries the source of the guest SDK, so that a deployer can build services against
// exactly the version it speaks, without a network. Import sdk/guest or sdk/agent, not this.
package sdk

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed guest/*.go guest/abi/*.go
var guestSource embed.FS

// Module is the module path under which services import the SDK.
const Module = "github.com/solo-os/solo/sdk"

// GuestModule returns the files of a module named Module that holds the guest SDK alone: slash
// paths relative to the module's root, a go.mod among them, no tests.
func GuestModule() (map[string][]byte, error) {
	out := map[string][]byte{"go.mod": []byte("module " + Module + "\n\ngo 1.26\n")}
	err := fs.WalkDir(guestSource, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := guestSource.ReadFile(path)
		if err != nil {
			return fmt.Errorf("embedded %s: %w", path, err)
		}
		out[path] = b
		return nil
	})
	return out, err
}
