package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What waits in memory for its time makes a large heap without pointers, which costs the
// garbage collector next to nothing to look through. Go's default of letting the heap double
// between two collections would double the memory of a million pending jobs for that.
const (
	// gcHeadroom is how much the heap may grow between two collections, unless a part of
	// what is live is more. With a heap smaller than this, Go's default is left alone: more
	// collections would only make jobs late.
	gcHeadroom = 8 << 20
	// gcPercentLeast is that part.
	gcPercentLeast = 10
	gcInterval     = 2 * time.Second
)

// limitGarbage keeps to that until ctx ends. Whoever sets GOGC has the last word.
func limitGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	for last := 100; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(live)
		// By and large: each change stops the world for a moment.
		if percent := gcPercent(live[0].Value.Uint64()); percent > last*5/4 || percent < last*4/5 {
			debug.SetGCPercent(percent)
			last = percent
		}
	}
}

func gcPercent(live uint64) int {
	return int(min(100, max(gcPercentLeast, 100*gcHeadroom/max(live, 1))))
}
