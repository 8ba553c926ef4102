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

// ProcessSpec describes a program to run as a child process that ends when our process ends.
type ProcessSpec struct {
	Path string   // the program
	Args []string // its arguments, without its name
	Dir  string   // working directory; defaults to ours
	Env  []string // environment; nil means ours

	Stdout, Stderr io.Writer // nil: discarded

	// DeathSignal is the signal that the child receives when our process ends (Linux
	// only). Defaults to SIGKILL.
	DeathSignal syscall.Signal

	// Enter is called before the start, on the thread that starts the child. The child
	// inherits the thread's state, for example its network namespace. The thread ends
	// with the child. Optional.
	Enter func() error

	account account // the account it runs as
}

// deathSignal returns DeathSignal or its default.
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

// StartProcess runs a program in its own process group.
//
// PR_SET_PDEATHSIG belongs to the thread that forks, not to the process: the child gets its
// signal when that thread ends, and the Go runtime may end threads. So the goroutine that
// forks locks its thread and waits until the child has ended.
func StartProcess(spec ProcessSpec) (*Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir, cmd.Env = spec.Dir, spec.Env
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	// A grandchild may keep our pipe open after the child has ended.
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = childAttributes(spec.deathSignal(), spec.account)

	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if spec.Enter == nil {
			defer runtime.UnlockOSThread()
		} else if err := spec.Enter(); err != nil { // the thread stays locked, so it ends with this goroutine
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

// Pid is the process id, also after the process has ended.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and all its output is written.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit code. It is −1 while the process runs and if a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Outcome says how the process ended ("exit status 1", "signal: killed"), or "running".
func (p *Process) Outcome() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// CPUTime is the CPU time of the process and the children it has waited for. It is 0 while
// the process runs.
func (p *Process) CPUTime() time.Duration {
	select {
	case <-p.done:
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	default:
		return 0
	}
}

// Signal sends sig. It is not an error if the process has ended already.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Freeze suspends the process (SIGSTOP). The kernel still answers for its TCP connections.
func (p *Process) Freeze() error { return p.Signal(signalFreeze) }

// Thaw resumes a frozen process (SIGCONT).
func (p *Process) Thaw() error { return p.Signal(signalThaw) }

// Wait blocks until the process has ended or ctx ends.
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
