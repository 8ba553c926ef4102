//go:build unix

package stack

import "syscall"

const (
	signalFreeze = syscall.SIGSTOP
	signalThaw   = syscall.SIGCONT
	signalSave   = syscall.SIGUSR1 // makes mosquitto save its state
)

// signalProcess sends a signal to a process, which need not be our child.
func signalProcess(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }
