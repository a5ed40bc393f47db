package cli

import "syscall"

// apart starts the kernel in a group of its own: an interrupt at the terminal reaches this
// program alone, which asks the kernel once to end. A kill of this program ends it, too.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
