package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// ProcessSpec describes a program to run as a child that dies with us.
type ProcessSpec struct {
	Path string   // the program
	Args []string // its arguments, without its name
	Dir  string   // working directory; empty: ours
	Env  []string // environment; nil: ours

	Stdout, Stderr io.Writer // nil: discarded

	// DeathSignal is what the child receives when our process dies (Linux).
	// Defaults to SIGKILL.
	DeathSignal syscall.Signal

	// Enter is called before the start, on a thread that ends with the child, which
	// starts with what the thread has by then: a network namespace, say. Optional.
	Enter func() error

	who account // whom it runs as
}

// deathSignal is DeathSignal or its default.
func (s ProcessSpec) deathSignal() syscall.Signal {
	if s.DeathSignal == 0 {
		return syscall.SIGKILL
	}
	return s.DeathSignal
}

// Process is a running child. Its methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess runs a program in a process group of its own.
//
// PR_SET_PDEATHSIG is tied to the thread that forks, not to the process: the
// child gets its signal when that thread ends, and the Go runtime may end
// threads. So the goroutine that forks keeps its thread locked and stays until
// the child is gone.
func StartProcess(spec ProcessSpec) (*Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir, cmd.Env = spec.Dir, spec.Env
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	// A grandchild may hold our pipe open after the child is gone.
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = childAttributes(spec.deathSignal(), spec.who)

	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if spec.Enter == nil {
			defer runtime.UnlockOSThread()
		} else if err := spec.Enter(); err != nil { // the thread is spoilt: it ends with us
			started <- err
			return
		}
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the outcome is in cmd.ProcessState
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Pid is the process id. It stays what it was after the process is gone.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process is gone and all its output is written.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit code, or −1 while it runs and when a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Outcome says how the process ended ("exit status 1", "signal: killed"),
// or that it has not.
func (p *Process) Outcome() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// CPUTime is what the process has taken, its own children included. 0 while it runs.
func (p *Process) CPUTime() time.Duration {
	select {
	case <-p.done:
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	default:
		return 0
	}
}

// Signal sends sig. A process that is gone already is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Freeze stops the process (SIGSTOP): alive for the kernel and its peers' TCP, and doing
// nothing.
func (p *Process) Freeze() error { return p.Signal(signalFreeze) }

// Thaw has a frozen process go on (SIGCONT).
func (p *Process) Thaw() error { return p.Signal(signalThaw) }

// Wait blocks until the process is gone or ctx ends.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", p.Pid(), ctx.Err())
	}
}

// goneWithin waits at most d for the process to end.
func (p *Process) goneWithin(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.Wait(ctx) == nil
}
