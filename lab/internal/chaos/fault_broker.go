package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawBrokerKill kills the broker, which comes back with its last save: of before the kill,
// or of long ago.
func drawBrokerKill(d draw) action {
	old := d.IntN(3) == 0
	lag, down := d.duration(0, 1500*time.Millisecond), d.duration(0, 2*time.Second)
	text := fmt.Sprintf("SIGKILL %v after a save, started after %v", lag, down)
	if old {
		text = fmt.Sprintf("SIGKILL without a save, started after %v", down)
	}
	return action{text, func(ctx context.Context, w *world) error { return w.killBroker(ctx, old, lag, down) }}
}

func (w *world) killBroker(ctx context.Context, old bool, lag, down time.Duration) error {
	if !w.brokerDown.TryLock() {
		return errBusy
	}
	defer w.brokerDown.Unlock()
	ctx = context.WithoutCancel(ctx)
	if !old {
		if err := w.saveBroker(ctx); err != nil {
			return err
		}
		deploy.Sleep(ctx, lag)
	}
	if err := w.broker.Kill(); err != nil {
		return err
	}
	w.ledger.killed(time.Now())
	// What is still in a proxy has reached nobody: it must be gone before the ledger counts
	// the next connections as the next broker's.
	for _, in := range w.instances {
		in.broker.Reset()
		if err := in.broker.WaitClosed(ctx); err != nil {
			return err
		}
	}
	w.ledger.next()
	deploy.Sleep(ctx, down)
	return w.broker.Start(ctx)
}

// saveBroker has the broker save its state, and the ledger know.
func (w *world) saveBroker(ctx context.Context) error {
	asked := time.Now() // what is published meanwhile may be in the save, or not
	if err := w.broker.Save(ctx); err != nil {
		return err
	}
	w.ledger.saved(asked)
	return nil
}
