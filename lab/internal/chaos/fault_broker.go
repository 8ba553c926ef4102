package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawBrokerKill kills the broker and starts it again with its last save. The save is made just
// before the kill, or it is an old one.
func drawBrokerKill(r draw) action {
	old := r.IntN(3) == 0
	lag, down := r.duration(0, 1500*time.Millisecond), r.duration(0, 2*time.Second)
	text := fmt.Sprintf("SIGKILL %v after a save, started after %v", lag, down)
	if old {
		text = fmt.Sprintf("SIGKILL without a save, started after %v", down)
	}
	return action{text, func(ctx context.Context, d *deployment) error { return d.killBroker(ctx, old, lag, down) }}
}

func (d *deployment) killBroker(ctx context.Context, old bool, lag, down time.Duration) error {
	if !d.brokerDown.TryLock() {
		return errBusy
	}
	defer d.brokerDown.Unlock()
	ctx = context.WithoutCancel(ctx)
	if !old {
		if err := d.saveBroker(ctx); err != nil {
			return err
		}
		deploy.Sleep(ctx, lag)
	}
	if err := d.broker.Kill(); err != nil {
		return err
	}
	d.trace.killed(time.Now())
	// Bytes that are still in a proxy have not reached the broker. All connections must be closed
	// before the trace assigns packets to the next incarnation.
	for _, in := range d.instances {
		in.broker.Reset()
		if err := in.broker.WaitClosed(ctx); err != nil {
			return err
		}
	}
	d.trace.nextIncarnation()
	deploy.Sleep(ctx, down)
	return d.broker.Start(ctx)
}

// saveBroker makes the broker save its state, and records that in the trace.
func (d *deployment) saveBroker(ctx context.Context) error {
	requested := time.Now() // a message that is published from now on may not be in the save
	if err := d.broker.Save(ctx); err != nil {
		return err
	}
	d.trace.saved(requested)
	return nil
}
