package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	startTimeout = 60 * time.Second // of a start whose context has no deadline
	logTailLines = 15
)

var (
	// errPortLost: another server answers on the port that we have chosen.
	errPortLost = errors.New("another server answers on this port")

	// errRefused: the server runs but refuses us, so another attempt will not help.
	errRefused = errors.New("it refuses our connection")

	errExited = errors.New("it exited while starting")
)

// awaitReady connects to the server again and again, until the server answers, the process
// exits, or ctx ends.
func awaitReady(ctx context.Context, p *Process, ping func(context.Context) error) error {
	const slowest = 50 * time.Millisecond
	serving, exited := context.WithCancel(ctx) // ends a ping when the process has exited, before the ping's timeout
	defer exited()
	go func() {
		select {
		case <-p.Done():
			exited()
		case <-serving.Done():
		}
	}()
	pause := 2 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-p.Done():
			return fmt.Errorf("%w (%s)", errExited, p.Outcome())
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-timer.C:
		}
		attempt, cancel := context.WithTimeout(serving, 5*time.Second)
		last = ping(attempt)
		cancel()
		if errors.Is(last, errPortLost) || errors.Is(last, errRefused) {
			return last
		}
		if last == nil {
			select {
			case <-p.Done(): // another server has answered
				return fmt.Errorf("%w (%s)", errExited, p.Outcome())
			default:
				return nil
			}
		}
		timer.Reset(pause)
		pause = min(2*pause, slowest)
	}
}

// withStartTimeout adds the timeout of a start if ctx has no deadline.
func withStartTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, startTimeout)
}

// logTail returns the last lines of a log for an error text.
func logTail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > logTailLines {
		lines = lines[len(lines)-logTailLines:]
	}
	return strings.Join(lines, "\n")
}
