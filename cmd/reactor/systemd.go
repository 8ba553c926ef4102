package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemdInterval is the time between two looks at the instance, unless the watchdog wants to hear
// from us more often.
const systemdInterval = time.Second

// tellSystemd tells the service manager how the instance is, if there is one that listens
// (sd_notify(3), Type=notify). The function that it returns ends that.
//
//	READY=1      when due jobs are published for the first time
//	WATCHDOG=1   while no goroutine hangs, twice in WatchdogSec. Without it systemd restarts the process
//	STATUS=      what systemctl status shows: what is wrong, if something is
//	STOPPING=1   when a stop has begun
//
// A server that is away is no reason to withhold WATCHDOG=1: a restart does not bring it back.
func tellSystemd(ctx context.Context, r instance, log *slog.Logger) (end func()) {
	told, err := daemon.SdNotify(false, "STATUS=starting")
	if err != nil {
		log.Warn("systemd cannot be told how the instance is; it may take the start for failed", "error", err)
	}
	if !told {
		return func() {}
	}
	interval := systemdInterval
	// The error is about a WATCHDOG_USEC that is not systemd's.
	if watchdog, err := daemon.SdWatchdogEnabled(false); err == nil && watchdog > 0 {
		interval = min(interval, watchdog/2)
	}
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		var state systemdState
		for {
			// A message that gets lost is followed by another one.
			_, _ = daemon.SdNotify(false, state.next(r))
			select {
			case <-tick.C:
			case <-ctx.Done():
				_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping+"\nSTATUS=stopping")
				return
			}
		}
	})
	return func() {
		cancel()
		telling.Wait()
	}
}

// systemdState is what systemd knows.
type systemdState struct{ ready bool }

// next returns the next message: lines of sd_notify.
func (s *systemdState) next(r instance) string {
	health, stalls := r.Health(), r.Stalls()
	lines := []string{}
	if s.ready = s.ready || health.Ready; s.ready {
		// Each time, for the first may have been lost.
		lines = append(lines, daemon.SdNotifyReady)
	}
	if len(stalls) == 0 {
		lines = append(lines, daemon.SdNotifyWatchdog)
	}
	return strings.Join(append(lines, "STATUS="+oneLine(statusText(health.Ready, health.Problems, len(stalls)))), "\n")
}

func statusText(ready bool, problems []string, stalls int) string {
	text := "publishing"
	switch {
	case stalls > 0:
		text = "hanging"
	case !ready:
		text = "not ready"
	}
	if len(problems) > 0 {
		text += ": " + strings.Join(problems, "; ")
	}
	return text
}

// oneLine keeps a text from becoming another line of the message.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
