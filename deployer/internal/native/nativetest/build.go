// Package nativetest builds native services for tests.
package nativetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Service builds a static executable that speaks http and stdio into a file.
func Service(file string) error {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return fmt.Errorf("the source folder of nativetest is unknown")
	}
	cmd := exec.Command("go", "build", "-o", file, "./testdata/svc")
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the native service: %w\n%s", err, out)
	}
	return nil
}
