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

	// gcPercentIdle is the most that the heap may grow while there is next to nothing to do.
	// Collections are rare then; Go's least heap of 4 MB would be twice what an idle instance needs.
	gcPercentIdle = 50
	// gcIdle is how much an instance allocates in gcInterval while it is idle, and a little more.
	gcIdle = 1 << 20
)

// limitGarbage keeps to that until ctx ends. Whoever sets GOGC has the last word.
func limitGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	last, before := gcPercentIdle, uint64(0) // percent, and all bytes allocated so far
	debug.SetGCPercent(last)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(heap)
		live, allocated := heap[0].Value.Uint64(), heap[1].Value.Uint64()
		idle := allocated-before < gcIdle
		before = allocated
		// By and large: each change stops the world for a moment.
		if percent := gcPercent(live, idle); percent > last*5/4 || percent < last*4/5 {
			debug.SetGCPercent(percent)
			last = percent
		}
	}
}

func gcPercent(live uint64, idle bool) int {
	most := uint64(100)
	if idle {
		most = gcPercentIdle
	}
	return int(min(most, max(gcPercentLeast, 100*gcHeadroom/max(live, 1))))
}
