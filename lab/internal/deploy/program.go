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

// stopGrace is how long programs may take to stop. An instance gives the broker 10 s for
// what is on its way, by default.
const stopGrace = 15 * time.Second

// ProgramConfig says what to run.
type ProgramConfig struct {
	Name string   // in errors, and in the name of its log
	Path string   // the program
	Args []string // its arguments

	Env                    []string // its environment, but for the URLs
	DatabaseURL, BrokerURL string

	// Dir is where its log is written, as Name.log. It must exist.
	Dir string
}

// Program is a process that publishes jobs: an instance of reactor, or something else.
type Program struct {
	*stack.Process
	Name string
	log  *os.File
}

// StartProgram starts a program. The URLs are in its environment: every user of the machine
// can see arguments, and the URLs contain passwords.
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

// ended reports whether it has ended, and the error with its output if not with exit code 0.
func (p *Program) ended() (bool, error) {
	select {
	case <-p.Done():
	default:
		return false, nil
	}
	if p.ExitCode() == 0 {
		return true, nil
	}
	text, _ := os.ReadFile(p.log.Name()) // if it cannot be read, the outcome alone must do
	return true, fmt.Errorf("%s ended (%s): %s", p.Name, p.Outcome(), text)
}

// Programs run beside each other.
type Programs []*Program

// Failed is the error of the first program that has ended with another exit code than 0.
func (all Programs) Failed() error {
	for _, p := range all {
		if _, err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops all of them, kills those that take too long, and closes their logs. The error
// names those that were killed. Stopping twice is no error.
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
		_ = p.log.Close() // its text is there already
	}
	return errors.Join(errs...)
}
