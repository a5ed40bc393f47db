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

func build(name, file string, flags ...string) error {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return fmt.Errorf("the source folder of enginetest is unknown")
	}
	args := append([]string{"build", "-o", file}, flags...)
	cmd := exec.Command("go", append(args, "./testdata/"+name)...)
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build guest %s: %w\n%s", name, err, out)
	}
	return nil
}
