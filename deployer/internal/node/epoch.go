package node

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// epochs gives out deployer epochs: each higher than any before on this node, whatever died
// meanwhile. The upper half follows the kernel's boot epoch.
type epochs struct {
	file string
	mu   sync.Mutex
	last uint64 // mu
}

func openEpochs(file string, boot uint64) (*epochs, error) {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var last uint64
	if err == nil {
		// An unreadable number is that of a disk that failed in the middle of a write: the boot epoch
		// alone is higher than all before it then, if the kernel has been started since.
		last, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	return &epochs{file: file, last: max(last, boot<<32)}, nil
}

// next returns a new epoch, which is on disk first.
func (e *epochs) next() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tmp := e.file + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.FormatUint(e.last+1, 10)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("deployer epoch: %w", err)
	}
	if err := os.Rename(tmp, e.file); err != nil {
		return 0, fmt.Errorf("deployer epoch: %w", err)
	}
	e.last++
	return e.last, nil
}
