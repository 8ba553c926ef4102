package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// sameSignal is within what time a second signal is the first one once more. timeout(1) sends
// one to the process and one to its group; a terminal's Ctrl-C reaches a process directly
// and through whatever it was started by, sudo or make.
const sameSignal = time.Second / 2

// signals ends the context with the first SIGINT or SIGTERM: a clean stop. The
// second ends the process, if it comes later.
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
				if time.Since(first) >= sameSignal {
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
