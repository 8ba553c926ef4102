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
func drawInstant(r draw) action {
	const ahead = time.Second // the jobs are known, and none is claimed yet
	n, before := 500+r.IntN(3000), r.duration(-10*time.Millisecond, 40*time.Millisecond)
	i, hold, reset := r.instance(), r.duration(0, 4*time.Second), r.IntN(2) == 0
	breaks := []struct {
		what string
		do   func(ctx context.Context, d *deployment) error
	}{
		{fmt.Sprintf("instance %d is killed", i), func(_ context.Context, d *deployment) error { return d.instances[i].kill(hold) }},
		{"all instances are killed", func(_ context.Context, d *deployment) error {
			for _, in := range d.instances {
				if err := in.kill(hold); err != nil {
					return err
				}
			}
			return nil
		}},
		{fmt.Sprintf("instance %d is frozen", i), func(ctx context.Context, d *deployment) error { return d.instances[i].freeze(ctx, hold) }},
		{fmt.Sprintf("instance %d is stopped", i), func(_ context.Context, d *deployment) error { return d.instances[i].signal(syscall.SIGTERM) }},
		{"the broker is stopped", func(ctx context.Context, d *deployment) error {
			return restart(ctx, &d.brokerDown, d.broker.Stop, d.broker.Start, hold/2)
		}},
		{"PostgreSQL is killed", func(ctx context.Context, d *deployment) error {
			return restart(ctx, &d.postgresDown, d.primary().Kill, func(ctx context.Context) error { return d.primary().Start(ctx) }, hold/2)
		}},
		{fmt.Sprintf("the connections of instance %d to the broker end", i), func(_ context.Context, d *deployment) error {
			if p := d.instances[i].broker; reset {
				p.Reset()
			} else {
				p.Cut()
			}
			return nil
		}},
	}
	b := breaks[r.IntN(len(breaks))]
	return action{fmt.Sprintf("%d jobs at one instant; %v before it, %s", n, before, b.what), func(ctx context.Context, d *deployment) error {
		begun := time.Now()
		if err := d.load.burst(ctx, n, ahead); err != nil {
			return err
		}
		deploy.Sleep(ctx, ahead-before-time.Since(begun))
		return b.do(ctx, d)
	}}
}
