//go:build unix

package stack

import "syscall"

const (
	signalFreeze = syscall.SIGSTOP
	signalThaw   = syscall.SIGCONT
	signalSave   = syscall.SIGUSR1 // to mosquitto: save the state
)

// signalProcess sends a signal to a process that is no child of ours, perhaps.
func signalProcess(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }
