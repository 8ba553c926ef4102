package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// event is one entry of a schedule.
type event struct {
	at time.Duration
	action
}

func (e event) String() string { return fmt.Sprintf("%6.2fs  %s", e.at.Seconds(), e.text) }

// action is a fault with its parameters.
type action struct {
	text string
	do   func(ctx context.Context, d *deployment) error
}

// schedule draws the faults of a run. The result depends only on the configuration.
func schedule(cfg Config) []event {
	r := rand.New(rand.NewPCG(cfg.Seed, 0x6368616f73))
	var usable []fault
	for _, f := range faults {
		if slices.Contains(cfg.Faults, f.name) {
			for range f.weight {
				usable = append(usable, f)
			}
		}
	}
	var events []event
	for at := between(r, 0, 2*cfg.Pause); at < cfg.Duration; at += between(r, 0, 2*cfg.Pause) {
		f := usable[r.IntN(len(usable))]
		a := f.draw(draw{r, cfg.Instances})
		a.text = f.name + ": " + a.text
		events = append(events, event{at, a})
	}
	return events
}

// draw draws the parameters of faults.
type draw struct {
	*rand.Rand
	instances int
}

func (r draw) instance() int { return r.IntN(r.instances) }

func (r draw) duration(low, high time.Duration) time.Duration { return between(r.Rand, low, high) }

func between(r *rand.Rand, low, high time.Duration) time.Duration {
	return (low + time.Duration(r.Int64N(int64(high-low)))).Round(time.Millisecond)
}
