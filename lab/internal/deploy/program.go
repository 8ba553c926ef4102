package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
)

// stopGrace is how long programs may take to stop. An instance waits up to 10 s, by default, for
// the broker to acknowledge the messages in flight.
const stopGrace = 15 * time.Second

// ProgramConfig says which program to run.
type ProgramConfig struct {
	Name string   // for errors and for the name of the log
	Path string   // the program
	Args []string // its arguments

	Env                    []string // its environment without the URLs
	DatabaseURL, BrokerURL string

	// Dir is the folder of its log, Name.log. It must exist.
	Dir string
}

// Program is a process that publishes jobs: an instance of reactor, or another program.
type Program struct {
	*stack.Process
	Name string
	log  *os.File
}

// StartProgram starts a program. It passes the URLs in the environment, because they contain
// passwords and every user of the machine can read arguments.
func StartProgram(cfg ProgramConfig) (*Program, error) {
	log, err := os.Create(filepath.Join(cfg.Dir, cfg.Name+".log"))
	if err != nil {
		return nil, err
	}
	process, err := stack.StartProcess(stack.ProcessSpec{
		Path: cfg.Path, Args: cfg.Args,
		Env:    append(cfg.Env, "REACTOR_DATABASE_URL="+cfg.DatabaseURL, "REACTOR_MQTT_URL="+cfg.BrokerURL),
		Stdout: log, Stderr: log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", cfg.Name, err), log.Close())
	}
	return &Program{process, cfg.Name, log}, nil
}

// ended reports whether the program has ended. If the exit code is not 0, it returns an error
// with the program's output.
func (p *Program) ended() (bool, error) {
	select {
	case <-p.Done():
	default:
		return false, nil
	}
	if p.ExitCode() == 0 {
		return true, nil
	}
	text, _ := os.ReadFile(p.log.Name()) // if this fails, the error has only the outcome
	return true, fmt.Errorf("%s ended (%s): %s", p.Name, p.Outcome(), text)
}

// Programs are programs that run at the same time.
type Programs []*Program

// Failed returns an error if a program has ended with an exit code other than 0.
func (all Programs) Failed() error {
	for _, p := range all {
		if _, err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops all of them, kills those that take too long, and closes their logs. The error
// names those that were killed. Stopping twice is not an error.
func (all Programs) Stop() error {
	for _, p := range all {
		_ = p.Signal(os.Interrupt) // it may have ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var errs []error
	for _, p := range all {
		if err := p.Wait(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s did not stop within %s", p.Name, stopGrace))
			_ = p.Signal(os.Kill)
			<-p.Done()
		}
		_ = p.log.Close() // the process has written its output itself
	}
	return errors.Join(errs...)
}
