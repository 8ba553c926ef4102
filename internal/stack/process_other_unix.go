//go:build unix && !linux

package stack

import "syscall"

// There is no parent death signal here: see the package comment.
func childAttributes(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// childrenOf lists none: without /proc we leave it to the children to notice.
func childrenOf(int) []int { return nil }

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
