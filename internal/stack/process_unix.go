//go:build unix && !linux

package stack

import "syscall"

// There is no parent death signal here: see the package comment.
func childAttributes(_ syscall.Signal, who account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: who.cred}
}

// childrenOf lists none: without /proc we leave it to the children to notice.
func childrenOf(int) []int { return nil }

func alive(pid int) bool { return signalProcess(pid, 0) == nil }
