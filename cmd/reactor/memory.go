package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The jobs that wait in memory form a large heap without pointers, which costs the garbage
// collector almost nothing to scan. Go's default lets the heap double between two collections,
// which would double the memory of a million pending jobs.
const (
	// gcHeadroom is how many bytes the heap may grow between two collections, unless
	// gcPercentLeast of the live heap is more. If the live heap is smaller than this, Go's default
	// stays: more collections would only make jobs late.
	gcHeadroom = 8 << 20
	// gcPercentLeast is the smallest growth between two collections, in percent of the live heap.
	gcPercentLeast = 10
	// gcInterval is the time between two adjustments.
	gcInterval = 2 * time.Second

	// gcPercentIdle is the largest growth, in percent, while the instance is idle. Collections are
	// rare then; Go's minimum heap of 4 MB would be twice what an idle instance needs.
	gcPercentIdle = 50
	// gcIdle is the number of bytes that an instance allocates in gcInterval while it is idle,
	// rounded up.
	gcIdle = 1 << 20
)

// limitGarbage adjusts the garbage collector to these limits until ctx ends. It does nothing if
// GOGC is set.
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
		// Ignore small differences, because each change stops all goroutines for a moment.
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
