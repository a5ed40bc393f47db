package engine

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/tetratelabs/wazero/experimental"
)

// linear is one instance's memory: address space for all it may ever have is reserved at once, and
// pages cost nothing until touched, so that growing copies nothing and the ceiling is the end of the
// reservation. wazero frees a memory when the guest exits, possibly with the guest still on the
// stack, so Free does nothing: the instance's owner calls release once no call runs.
type linear struct {
	buf     []byte
	size    atomic.Uint64
	refused atomic.Bool
}

// reserve makes a memory that can grow up to a number of bytes.
func reserve(bytes uint64) (*linear, error) {
	buf, err := syscall.Mmap(-1, 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", bytes, err)
	}
	return &linear{buf: buf}, nil
}

// Allocate hands out the reservation.
func (l *linear) Allocate(_, _ uint64) experimental.LinearMemory { return l }

// Reallocate grows the memory in place, or returns nil at the ceiling.
func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(len(l.buf)) {
		l.refused.Store(true)
		return nil
	}
	l.size.Store(size)
	return l.buf[:size:size]
}

// Free leaves the pages to release.
func (l *linear) Free() {}

func (l *linear) release() {
	if l.buf != nil {
		_ = syscall.Munmap(l.buf)
		l.buf = nil
	}
}
