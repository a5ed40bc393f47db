//go:build !linux

package cli

import "syscall"

// apart is how the kernel is started where processes cannot be tied to each other.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
