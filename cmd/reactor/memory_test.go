package main

import "testing"

func TestGCPercent(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{{0, 100}, {1 << 20, 100}, {8 << 20, 100}, {16 << 20, 50}, {40 << 20, 20}, {1 << 30, 10}, {1 << 40, 10}} {
		if got := gcPercent(tt.live); got != tt.want {
			t.Errorf("with %d MB live: %d %%, want %d", tt.live>>20, got, tt.want)
		}
	}
}
