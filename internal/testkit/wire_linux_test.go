package testkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

// A program that is started with Enter runs in the Wire's client namespace.
func TestRunOnAWire(t *testing.T) {
	t.Parallel()
	w := testkit.NewWire(t)
	if w == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := testkit.Run(t, testkit.ProcessConfig{Path: "/bin/sh", Args: []string{"-c", "ip -o route get 10.77.0.1; echo end"}, Enter: w.Enter})
	for _, want := range []string{"src 10.77.0.2", "end"} {
		if _, err := p.WaitLine(ctx, want); err != nil {
			t.Errorf("%v; it printed:\n%s", err, p.Output())
		}
	}
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
