package enginetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Kitchen builds the guest with an operation for everything into a file.
func Kitchen(file string) error { return build("kitchen", file, "-buildmode=c-shared") }

// Upper builds the WASI command into a file.
func Upper(file string) error { return build("upper", file) }

// Compiler builds the program whose `compile` subcommand compiles modules: without the race detector,
// which makes compiling ten times slower than the limit on its time is meant for.
func Compiler(file string) error { return goBuild("../../../cmd/solo-runner", file, nil) }

func build(name, file string, flags ...string) error {
	return goBuild("./testdata/"+name, file, []string{"GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=-buildvcs=false"}, flags...)
}

func goBuild(pkg, file string, env []string, flags ...string) error {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return fmt.Errorf("the source folder of enginetest is unknown")
	}
	args := append([]string{"build", "-o", file}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
