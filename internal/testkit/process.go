package testkit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
)

// ProcessConfig says which program to run.
type ProcessConfig struct {
	Path string   // e.g. from Reactor(t)
	Args []string // without the program's name
	Env  []string // added to our environment
	Dir  string   // working directory; defaults to ours

	Enter func() error // see stack.ProcessSpec; e.g. netfault.Wire.Enter
}

// Process is a program under test, in its own process group. It is killed when the test ends,
// or when the test binary ends.
type Process struct {
	proc *stack.Process

	mu      sync.Mutex
	output  bytes.Buffer  // standard output and error, in the order of the writes
	changed chan struct{} // closed and replaced at each write
}

// endAtOnce is for programs with the race detector: at its end one would sleep for a second, in case that
// another thread has something to report. Tests run a hundred commands, one after the other.
const endAtOnce = "GORACE=atexit_sleep_ms=20"

// Run starts a program. If the test fails, its output is logged.
func Run(t testing.TB, cfg ProcessConfig) *Process {
	t.Helper()
	p := &Process{changed: make(chan struct{})}
	out := (*processOutput)(p)
	proc, err := stack.StartProcess(stack.ProcessSpec{
		Path: cfg.Path, Args: cfg.Args, Dir: cfg.Dir, Env: slices.Concat(os.Environ(), []string{endAtOnce}, cfg.Env),
		Stdout: out, Stderr: out, Enter: cfg.Enter,
	})
	if err != nil {
		t.Fatalf("testkit: run %s: %v", cfg.Path, err)
	}
	p.proc = proc
	t.Cleanup(func() {
		_ = p.proc.Signal(syscall.SIGKILL)
		<-p.proc.Done()
		if t.Failed() {
			t.Logf("process %d, %s %s (%s), printed:\n%s",
				p.Pid(), cfg.Path, strings.Join(cfg.Args, " "), p.proc.Outcome(), p.Output())
		}
	})
	return p
}

// Pid is the process id.
func (p *Process) Pid() int { return p.proc.Pid() }

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.proc.Done() }

// Kill sends SIGKILL and waits until the process has ended.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	<-p.proc.Done()
}

// Terminate sends SIGTERM and does not wait.
func (p *Process) Terminate(t testing.TB) { t.Helper(); p.signal(t, syscall.SIGTERM) }

// Interrupt sends SIGINT and does not wait.
func (p *Process) Interrupt(t testing.TB) { t.Helper(); p.signal(t, syscall.SIGINT) }

// Pause suspends the process with SIGSTOP. The kernel still answers for its TCP connections.
// Continue resumes it.
func (p *Process) Pause(t testing.TB) { t.Helper(); must(t, p, "pause", p.proc.Freeze()) }

// Continue resumes the process after Pause, with SIGCONT.
func (p *Process) Continue(t testing.TB) { t.Helper(); must(t, p, "continue", p.proc.Thaw()) }

func (p *Process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	must(t, p, sig.String(), p.proc.Signal(sig))
}

func must(t testing.TB, p *Process, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("testkit: %s process %d: %v", what, p.Pid(), err)
	}
}

// Wait waits for the end of the process and returns its exit code, or −1 if a signal ended it.
// The test fails if this takes longer than limit.
func (p *Process) Wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := p.proc.Wait(ctx); err != nil {
		t.Fatalf("testkit: process %d has not ended after %s", p.Pid(), limit)
	}
	return p.proc.ExitCode()
}

// Output returns the output so far, standard output and error together.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// WaitLine blocks until the process has printed a complete line that contains text, and returns
// the line. A line that was printed before the call counts too. The error is that of ctx, or
// says that the process has ended without such a line.
func (p *Process) WaitLine(ctx context.Context, text string) (string, error) {
	ended := false
	for {
		p.mu.Lock()
		line, found := findLine(p.output.String(), text)
		changed := p.changed
		p.mu.Unlock()
		if found {
			return line, nil
		}
		if ended {
			return "", fmt.Errorf("the process ended (%s) without printing %q", p.proc.Outcome(), text)
		}
		select {
		case <-changed:
		case <-p.proc.Done():
			ended = true // the output is complete now, so search it once more
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q: %w", text, ctx.Err())
		}
	}
}

func findLine(output, text string) (string, bool) {
	for line := range strings.Lines(output) {
		if strings.HasSuffix(line, "\n") && strings.Contains(line, text) {
			return strings.TrimSuffix(line, "\n"), true
		}
	}
	return "", false
}

// processOutput is the writer for standard output and error of a process.
type processOutput Process

func (o *processOutput) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.output.Write(text)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(text), nil
}
