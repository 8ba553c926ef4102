package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	stopGrace = 10 * time.Second // how long a server may take to stop, unless it is given longer
	killGrace = 10 * time.Second // how long the kernel may take to end a killed process
)

// server is the common part of Postgres, Mosquitto and PgBouncer: a program that runs under
// an unprivileged account, in its own folder, on one port, with one log for all its starts.
type server struct {
	name    string // of the program; it is also in errors and in the names of log and folder
	kind    kind
	logger  *slog.Logger
	account account
	dir     string

	mu     sync.Mutex // guards the fields below; held during a start or a stop
	port   int
	proc   *Process // nil before the first start; then the latest process, which may have ended
	killed bool     // the latest process was ended by SIGKILL, so it could not clean up
	closed bool
}

// kind is the part that differs between the servers. Callers hold server.mu, except for Close.
type kind interface {
	// command starts the program on server.port. The caller adds folder, account and log.
	command() ProcessSpec
	// configure writes server.port to the program's configuration.
	configure() error
	// ping returns nil if the program is ready and is the one that we have started.
	ping(ctx context.Context) error
	// kill ends the program and its children with SIGKILL, and waits until they have ended.
	kill() error
	Close() error
}

// open makes the folder (a new one if dir is ""), calls prepare to fill it, and starts the
// program on port, or on a free one if port is 0. users are the accounts to run it under if we
// are root. After an error nothing is left.
func (s *server) open(ctx context.Context, dir string, port int, prepare func(context.Context) error, users ...string) (err error) {
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.account, err = unprivileged(users...); err != nil {
		return err
	}
	if s.dir, err = prepareDir(dir, "reactor-"+s.name+"-", s.account); err != nil {
		return err
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if prepare != nil {
		err = prepare(ctx)
	}
	if err == nil {
		err = s.firstStart(ctx, port)
	}
	if err != nil {
		return errors.Join(err, s.kind.Close())
	}
	s.logger.Info("server started", "server", s.name, "port", s.port, "pid", s.Pid(), "dir", s.dir)
	return nil
}

// firstStart chooses the port, and configures and starts the program.
func (s *server) firstStart(ctx context.Context, port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return onFreePort(ctx, port, func(port int) error {
		s.port = port
		if err := s.kind.configure(); err != nil {
			return err
		}
		return s.start(ctx)
	})
}

// Port is the port on 127.0.0.1. It stays the same after a restart.
func (s *server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// Pid is the process id of the server's main process. If the server does not run, it is that
// of the last start, or 0 before the first one.
func (s *server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.Pid()
}

// Dir is the server's folder.
func (s *server) Dir() string { return s.dir }

// LogPath is the file of the server's log, with the output of all its starts.
func (s *server) LogPath() string { return filepath.Join(s.dir, s.name+".log") }

// Start starts a stopped or killed server again, with the same port and the data that is left.
// It returns when the server accepts connections. It does nothing if the server runs.
func (s *server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("start %s: it is closed", s.name)
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	return nil
}

// Kill ends the server and its children with SIGKILL, and returns when all have ended.
func (s *server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kind.kill()
}

// Freeze suspends the server's main process, see Process.Freeze. It does nothing if the server
// does not run.
func (s *server) Freeze() error { return s.signal((*Process).Freeze) }

// Thaw resumes the server's main process. It does nothing if the server does not run.
func (s *server) Thaw() error { return s.signal((*Process).Thaw) }

func (s *server) signal(send func(*Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil
	}
	return send(s.proc)
}

// Close stops the server and removes its folder. Closing twice is not an error.
func (s *server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close(syscall.SIGTERM)
}

// close ends the server by a signal and removes its folder. The caller holds s.mu.
func (s *server) close(sig syscall.Signal) error {
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.end(sig, stopGrace), os.RemoveAll(s.dir))
}

// running reports whether the program runs. The caller holds s.mu.
func (s *server) running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.Done():
		return false
	default:
		return true
	}
}

// start runs the program on s.port. The caller holds s.mu.
func (s *server) start(ctx context.Context) error {
	if s.running() {
		return nil
	}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	spec := s.kind.command()
	spec.Dir, spec.Env, spec.account = s.dir, serverEnv(), s.account
	spec.Stdout, spec.Stderr = log, log
	proc, err := StartProcess(spec)
	if err != nil {
		return err
	}
	s.proc, s.killed = proc, false
	if err := awaitReady(ctx, proc, s.kind.ping); err != nil {
		// The death signal also ends the children.
		_ = s.end(spec.deathSignal(), stopGrace)
		return fmt.Errorf("on port %d: %w; the last lines of its log:\n%s", s.port, err, logTail(s.LogPath()))
	}
	return nil
}

// stop calls end for callers that do not hold s.mu.
func (s *server) stop(sig syscall.Signal, grace time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(sig, grace)
}

// end sends sig. If the process does not end within grace, it kills the process and returns an
// error. The caller holds s.mu.
func (s *server) end(sig syscall.Signal, grace time.Duration) error {
	if !s.running() {
		return nil
	}
	if err := s.proc.Signal(sig); err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	if s.proc.goneWithin(grace) {
		return nil
	}
	return errors.Join(fmt.Errorf("%s did not stop within %s of %s", s.name, grace, sig), s.kind.kill())
}

// kill implements kind for a server without children.
func (s *server) kill() error {
	if !s.running() {
		return nil
	}
	s.killed = true
	if err := s.proc.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", s.name, err)
	}
	if !s.proc.goneWithin(killGrace) {
		return fmt.Errorf("kill %s: process %d survives SIGKILL", s.name, s.proc.Pid())
	}
	return nil
}

// writeFile writes a file that belongs to the server's account.
func (s *server) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return s.account.own(path)
}

// runTool runs a program of the server's installation, under the server's account, until it
// ends.
func (s *server) runTool(ctx context.Context, path string, args ...string) error {
	var out bytes.Buffer
	tool, err := StartProcess(ProcessSpec{
		Path: path, Args: args, Dir: s.dir, Env: serverEnv(), Stdout: &out, Stderr: &out, account: s.account,
	})
	if err == nil {
		if err = tool.Wait(ctx); err != nil {
			_ = tool.Signal(os.Kill)
			<-tool.Done()
		}
	}
	if err == nil && tool.ExitCode() != 0 {
		err = fmt.Errorf("%s\n%s", tool.Outcome(), out.String())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}
