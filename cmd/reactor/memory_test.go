package main

import "testing"

func TestGCPercent(t *testing.T) {
	for _, tt := range []struct {
		live       uint64
		want, idle int
	}{{0, 100, 50}, {1 << 20, 100, 50}, {8 << 20, 100, 50}, {16 << 20, 50, 50}, {40 << 20, 20, 20}, {1 << 30, 10, 10}, {1 << 40, 10, 10}} {
		if got, idle := gcPercent(tt.live, false), gcPercent(tt.live, true); got != tt.want || idle != tt.idle {
			t.Errorf("with %d MB live: %d %%, idle %d %%, want %d and %d", tt.live>>20, got, idle, tt.want, tt.idle)
		}
	}
}
