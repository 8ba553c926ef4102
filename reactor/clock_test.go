package reactor

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestClockIsNeverAhead simulates readings with all kinds of delays, between clocks
// that drift, and checks the promise: never later than the database's clock, and not
// much earlier.
func TestClockIsNeverAhead(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		c := newClock(discard())
		drift := 1 + (rng.Float64()*2-1)*40e-6
		// database is its clock, in nanoseconds, at a local instant.
		database := func(local time.Duration) time.Duration {
			return 1_700_000_000*time.Second + time.Duration(float64(local)*drift)
		}
		now := time.Duration(0)
		for range 200 {
			sent := now
			there := time.Duration(rng.ExpFloat64() * float64(50*time.Microsecond))
			back := time.Duration(rng.ExpFloat64() * float64(50*time.Microsecond))
			c.observe(driver.DBTime(database(sent+there)/time.Microsecond), sent, sent+there+back)
			now = sent + there + back
			for range 5 {
				now += time.Duration(rng.Int64N(int64(400 * time.Millisecond)))
				behind := database(now) - time.Duration(c.at(now))*time.Microsecond
				if behind < 0 {
					t.Fatalf("seed %d: %v ahead of the database", seed, -behind)
				} else if behind > time.Millisecond {
					t.Fatalf("seed %d: %v behind the database", seed, behind)
				}
			}
		}
	}
}

func TestClockFollowsSteps(t *testing.T) {
	var told bytes.Buffer
	c := newClock(slog.New(slog.NewJSONHandler(&told, nil)))
	observe := func(at time.Duration, database driver.DBTime) {
		c.observe(database, at, at+100*time.Microsecond)
	}
	observe(time.Second, 1_000_000_000)
	observe(2*time.Second, 1_001_000_000)
	if n := c.steps.Load(); n != 0 {
		t.Fatalf("%d steps where there were none", n)
	}
	if told.Len() != 0 {
		t.Errorf("without a step the log says %s", &told)
	}
	before := c.latest.Load().offset
	observe(3*time.Second, 1_002_000_000-10_000_000) // ten seconds back
	if n := c.steps.Load(); n != 1 {
		t.Fatalf("a step back was counted %d times", n)
	}
	if !strings.Contains(told.String(), "set back") || !strings.Contains(told.String(), `"by":-10000000000`) {
		t.Errorf("after a step of -10 s the log says %q", &told)
	}
	if moved := time.Duration(before - c.latest.Load().offset); moved < 9*time.Second || moved > 11*time.Second {
		t.Errorf("the offset moved by %v", moved)
	}
	observe(4*time.Second, 1_002_000_000+3_600_000_000) // an hour ahead
	if n := c.steps.Load(); n != 1 {
		t.Errorf("a step ahead was counted, though it needs no new wheel")
	}
	if moved := time.Duration(c.latest.Load().offset - before); moved < 59*time.Minute {
		t.Errorf("the offset moved by %v", moved)
	}
}

// TestClockConfirms: the time that a slow claim returns is not used as a reading, but it shows
// a step in either direction, and the step wakes whoever sleeps.
func TestClockConfirms(t *testing.T) {
	for _, step := range []driver.DBTime{-10_000_000, 10_000_000} {
		c := newClock(discard())
		c.observe(1_000_000_000, time.Second, time.Second+100*time.Microsecond)
		before, moved := *c.latest.Load(), c.Step()
		c.confirm(1_001_010_000, 2*time.Second, 2*time.Second+20*time.Millisecond)
		if *c.latest.Load() != before || len(c.doubt) != 0 {
			t.Fatal("a claim that took 20ms replaced a good reading")
		}
		c.confirm(1_002_010_000+step, 3*time.Second, 3*time.Second+20*time.Millisecond)
		if got, want := c.at(3*time.Second), 1_002_000_000+step; got > want+10_000 || got < want-10_000 {
			t.Errorf("after a step of %d µs the time is %d, want about %d", step, got, want)
		}
		if len(c.doubt) != 1 {
			t.Error("a step was seen and nobody asked for better readings")
		}
		select {
		case <-moved:
		default:
			t.Error("a step wakes nobody")
		}
	}
}

// steadySource is a database whose clock reads the same as ours, a millisecond away.
type steadySource struct{ readings int }

func (s *steadySource) Now(context.Context) (driver.DBTime, error) {
	s.readings++
	time.Sleep(time.Millisecond)
	return driver.DBTimeOf(time.Now()), nil
}

// TestClockIsReadMoreOftenWhileBusy: claims make it worth while to know the time more precisely; an
// idle instance, and one that claims now and then, leave the database alone.
func TestClockIsReadMoreOftenWhileBusy(t *testing.T) {
	for _, tt := range []struct {
		claims      int // a second
		least, most int // readings in 20 s
	}{{0, 9, 11}, {1, 9, 30}, {100, 150, 220}} {
		synctest.Test(t, func(t *testing.T) {
			c, source := newClock(discard()), &steadySource{}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			go func() {
				if tt.claims == 0 {
					return
				}
				for range 20 * tt.claims {
					time.Sleep(time.Second / time.Duration(tt.claims))
					c.confirm(driver.DBTimeOf(time.Now()), c.local(), c.local())
				}
			}()
			c.run(ctx, source, func() clockWatch { return silentWatch{} }, &moment{}, nil)
			if source.readings < tt.least || source.readings > tt.most {
				t.Errorf("%d claims a second: %d readings in 20 s, want %d to %d", tt.claims, source.readings, tt.least, tt.most)
			}
		})
	}
}

func TestLeadFollowsClaims(t *testing.T) {
	l := newLead()
	for range 100 {
		l.observe(200 * time.Microsecond)
	}
	if got := l.get(); got != minLead {
		t.Errorf("after quick claims the lead is %v, want %v", got, minLead)
	}
	for range 100 {
		l.observe(20 * time.Millisecond)
	}
	if got := l.get(); got < 20*time.Millisecond || got > 30*time.Millisecond {
		t.Errorf("after claims of 20ms the lead is %v", got)
	}
	for range 100 {
		l.observe(time.Minute)
	}
	if got := l.get(); got != maxLead {
		t.Errorf("after endless claims the lead is %v, want %v", got, maxLead)
	}
}
