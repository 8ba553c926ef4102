package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// repeatWindow is how long after the first signal another one counts as its repetition.
// timeout(1) sends a signal to the process and then to its group. A Ctrl-C on a terminal
// reaches a process directly and also through the program that started it, sudo or make.
const repeatWindow = time.Second / 2

// signals returns a context that ends with the first SIGINT or SIGTERM, for a clean stop. A
// second signal ends the process, unless it is a repetition of the first.
func signals() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-ch:
			cancel()
		case <-done:
			return
		}
		first := time.Now()
		for {
			select {
			case <-ch:
				if time.Since(first) >= repeatWindow {
					os.Exit(ExitInterrupted)
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel()
	}
}
