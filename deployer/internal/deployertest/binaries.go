package deployertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Build builds solo-deployer, solo-runner, solo-keeper and a native service, `echo`, into a folder.
func Build(dir string) error {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return fmt.Errorf("the source folder of deployertest is unknown")
	}
	module := filepath.Join(filepath.Dir(self), "..", "..")
	args := []string{"build"}
	if cover := os.Getenv("GOCOVERDIR"); cover != "" {
		args = append(args, "-cover")
	}
	cmd := exec.Command("go", append(args, "-o", dir, "./cmd/solo-deployer", "./cmd/solo-runner", "./cmd/solo-keeper", "./internal/deployertest/echo")...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build helpers: %w\n%s", err, out)
	}
	return nil
}
