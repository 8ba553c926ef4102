//go:build unix && !linux

package stack

import "syscall"

// childAttributes sets no parent death signal: this system has none (see the package comment).
func childAttributes(_ syscall.Signal, runAs account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: runAs.cred}
}

// childrenOf returns nothing, because there is no /proc. The children detect themselves that
// their parent has ended.
func childrenOf(int) []int { return nil }

func alive(pid int) bool { return signalProcess(pid, 0) == nil }
