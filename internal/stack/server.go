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

// server is what Postgres, Mosquitto and PgBouncer have in common, and embed: a program
// that runs under an unprivileged account, in a folder of its own, on one port, with one log
// over all its starts.
type server struct {
	name   string // of the program; also in errors and in the names of log and folder
	kind   kind
	logger *slog.Logger
	who    account
	dir    string

	mu     sync.Mutex // guards what follows, and makes starts and stops take turns
	port   int
	proc   *Process // nil before the first start; then the last process, perhaps gone
	killed bool     // the last process was ended by SIGKILL, and could not clean up
	closed bool
}

// kind is what differs between the servers. Callers hold server.mu, but for Close.
type kind interface {
	// command is the program on server.port. The server adds folder, account and log.
	command() ProcessSpec
	// configure writes server.port to where the program reads it.
	configure() error
	// ask returns nil if the program serves, and is ours.
	ask(ctx context.Context) error
	// kill ends the program and its children with SIGKILL, and waits until they are gone.
	kill() error
	Close() error
}

// open makes the folder, which is a new one if dir is empty, has prepare fill it, and starts
// the program on port, or on a free one where that is 0. users are accounts to run it under if
// we are root. When it fails nothing is left behind.
func (s *server) open(ctx context.Context, dir string, port int, prepare func(context.Context) error, users ...string) (err error) {
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.who, err = unprivileged(users...); err != nil {
		return err
	}
	if s.dir, err = prepareDir(dir, "reactor-"+s.name+"-", s.who); err != nil {
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

// firstStart finds the port.
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

// Port on 127.0.0.1. It stays the same over restarts.
func (s *server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// Pid of the server's first process, the last one if it does not run.
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

// LogPath is the file of the server's log, over all its starts.
func (s *server) LogPath() string { return filepath.Join(s.dir, s.name+".log") }

// Start starts a stopped or killed server on its port and what it has saved, and returns
// when it accepts connections. A running server is left alone.
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

// Kill ends the server, its children too, with SIGKILL, and returns when all are gone.
func (s *server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kind.kill()
}

// Freeze stops the server's first process, see Process.Freeze; Thaw has it go on. A server
// that does not run is left alone by both.
func (s *server) Freeze() error { return s.signal((*Process).Freeze) }

// Thaw: see Freeze.
func (s *server) Thaw() error { return s.signal((*Process).Thaw) }

func (s *server) signal(send func(*Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil
	}
	return send(s.proc)
}

// Close stops the server and removes its folder. Closing twice is no error.
func (s *server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close(syscall.SIGTERM)
}

// close ends the server by a signal and removes its folder. Caller holds s.mu.
func (s *server) close(sig syscall.Signal) error {
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.end(sig, stopGrace), os.RemoveAll(s.dir))
}

// running reports whether the program runs. Caller holds s.mu.
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

// start runs the program on s.port. Caller holds s.mu.
func (s *server) start(ctx context.Context) error {
	if s.running() {
		return nil
	}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	spec := s.kind.command()
	spec.Dir, spec.Env, spec.who = s.dir, serverEnv(), s.who
	spec.Stdout, spec.Stderr = log, log
	proc, err := StartProcess(spec)
	if err != nil {
		return err
	}
	s.proc, s.killed = proc, false
	if err := awaitReady(ctx, proc, s.kind.ask); err != nil {
		// By what ends it when we die: that leaves nothing behind.
		_ = s.end(spec.deathSignal(), stopGrace)
		return fmt.Errorf("on port %d: %w; the last lines of its log:\n%s", s.port, err, logTail(s.LogPath()))
	}
	return nil
}

// stop is end for those who do not hold s.mu.
func (s *server) stop(sig syscall.Signal, grace time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(sig, grace)
}

// end sends sig, and kills when that does not help: then there is an error, too. Caller
// holds s.mu.
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

// kill is that of a server without children, see kind.
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

// writeFile writes a file that the server's account may read.
func (s *server) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return s.who.own(path)
}

// runTool runs a program that comes with the server, as the server's account, to its end.
func (s *server) runTool(ctx context.Context, path string, args ...string) error {
	var out bytes.Buffer
	tool, err := StartProcess(ProcessSpec{
		Path: path, Args: args, Dir: s.dir, Env: serverEnv(), Stdout: &out, Stderr: &out, who: s.who,
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
