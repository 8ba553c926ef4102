package pgsource

import (
	"testing"
	"time"
)

func TestPacer(t *testing.T) {
	p := pacer{every: time.Millisecond, burst: 3}
	now := time.Unix(1000, 0)
	for i, want := range []time.Duration{0, 0, 0, time.Millisecond, 2 * time.Millisecond} {
		if got := p.take(now); got != want {
			t.Errorf("number %d of a burst waits for %v, want %v", i+1, got, want)
		}
	}
	// A second makes 1,000 of them, and what was not used is lost.
	now = now.Add(time.Second)
	for range 3 {
		if got := p.take(now); got != 0 {
			t.Errorf("after a pause there is a wait of %v", got)
		}
	}
	waited := time.Duration(0)
	for range 1000 {
		wait := p.take(now)
		now, waited = now.Add(wait), waited+wait
	}
	if waited != time.Second {
		t.Errorf("1,000 under load take %v", waited)
	}
}
