package chaos

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawInstant has many jobs fall due at one instant, and something break in the milliseconds before
// it or after it: then most of them are with the broker, waiting for their release.
func drawInstant(d draw) action {
	const ahead = time.Second // the jobs are known, and none is claimed yet
	n, before := 500+d.IntN(3000), d.duration(-10*time.Millisecond, 40*time.Millisecond)
	i, hold, reset := d.instance(), d.duration(0, 4*time.Second), d.IntN(2) == 0
	breaks := []struct {
		what string
		do   func(ctx context.Context, w *world) error
	}{
		{fmt.Sprintf("instance %d is killed", i), func(_ context.Context, w *world) error { return w.instances[i].kill(hold) }},
		{"all instances are killed", func(_ context.Context, w *world) error {
			for _, in := range w.instances {
				if err := in.kill(hold); err != nil {
					return err
				}
			}
			return nil
		}},
		{fmt.Sprintf("instance %d is frozen", i), func(ctx context.Context, w *world) error { return w.instances[i].freeze(ctx, hold) }},
		{fmt.Sprintf("instance %d is stopped", i), func(_ context.Context, w *world) error { return w.instances[i].signal(syscall.SIGTERM) }},
		{"the broker is stopped", func(ctx context.Context, w *world) error {
			return restart(ctx, &w.brokerDown, w.broker.Stop, w.broker.Start, hold/2)
		}},
		{"PostgreSQL is killed", func(ctx context.Context, w *world) error {
			return restart(ctx, &w.postgresDown, w.primary().Kill, func(ctx context.Context) error { return w.primary().Start(ctx) }, hold/2)
		}},
		{fmt.Sprintf("the connections of instance %d to the broker end", i), func(_ context.Context, w *world) error {
			if p := w.instances[i].broker; reset {
				p.Reset()
			} else {
				p.Cut()
			}
			return nil
		}},
	}
	b := breaks[d.IntN(len(breaks))]
	return action{fmt.Sprintf("%d jobs at one instant; %v before it, %s", n, before, b.what), func(ctx context.Context, w *world) error {
		begun := time.Now()
		if err := w.load.burst(ctx, n, ahead); err != nil {
			return err
		}
		deploy.Sleep(ctx, ahead-before-time.Since(begun))
		return b.do(ctx, w)
	}}
}
