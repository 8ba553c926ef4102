//go:build !unix

package stack

import (
	"os"
	"syscall"
)

// On systems other than Unix this package is only compiled, so that go vet can check the tests
// that need servers. Only SIGKILL works there: os.Process.Signal refuses all other signals.
const (
	signalFreeze = syscall.Signal(0x13)
	signalThaw   = syscall.Signal(0x12)
	signalSave   = syscall.Signal(0x0a)
)

func childAttributes(syscall.Signal, account) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func childrenOf(int) []int { return nil }

func alive(pid int) bool { return signalProcess(pid, 0) == nil }

func signalProcess(pid int, sig syscall.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(sig)
}
