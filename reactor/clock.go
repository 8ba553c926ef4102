package reactor

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// clock knows the database's time. It never runs ahead of it: every reading D of
// the database's clock, requested at the local instant m0 and received at m1, was
// taken somewhere in between, so that
//
//	D - m1  <=  offset  <=  D - m0
//
// and with the lower bound as offset, Now is never later than the database's own time. The
// promise "never early" rests on this. The cost is lateness, of up to the return time of a
// round trip. Of the recent readings the largest lower bound is used, which is the one with the
// fastest return; so the lateness is close to half of the shortest round trip.
//
// Local instants are monotonic: steps of the host's wall clock don't affect them. A step of the
// database's clock shows as bounds that contradict each other; then only the newest reading
// counts. Three things detect a step: the next reading, the next claim, which returns the
// database's time too, and, as the database is often on the same host, an event of the kernel
// when that host's clock is set.
type clock struct {
	start  time.Time // has the monotonic reading that local instants count from
	latest atomic.Pointer[estimate]
	steps  atomic.Int64 // how often the database's clock was found to have gone back
	doubt  wait.Signal  // asks for several readings at once, for example after a step
	claims atomic.Int64 // how many there have been
	log    *slog.Logger // is told of steps
	jumps  ratelog.Limiter

	mu       sync.Mutex
	readings []reading     // guarded by mu; oldest first
	moved    chan struct{} // guarded by mu: closed by the next step, forward or back
}

// estimate is what follows from the readings.
type estimate struct {
	at     time.Duration // local instant at which it was made
	offset time.Duration // database time at the local instant 0
	bound  time.Duration // how far behind the truth offset may be
}

type reading struct {
	at        time.Duration // local instant of its arrival
	low, high time.Duration // bounds of the offset
}

const (
	// clockReadings is how many readings are kept. Older ones bound the offset less and less.
	clockReadings = 16
	// clockDrift is how far two clocks may drift apart, per unit of time: 50 ppm, a
	// quartz without correction.
	clockDrift = 50e-6
	// clockInterval is the time between two readings, and busyInterval while there are claims. At
	// 50 ppm the clocks may drift apart by 0.1 ms in two seconds, which would be a third of all
	// lateness. The second of two readings in a row returns sooner: everything is awake.
	clockInterval = 2 * time.Second
	busyInterval  = 200 * time.Millisecond
	busyReadings  = 2
	// busyClaims is how many claims justify a reading.
	busyClaims = 4
	// clockStep is a correction that is more than noise and drift.
	clockStep = 50 * time.Millisecond
)

func newClock(log *slog.Logger) *clock {
	c := &clock{start: time.Now(), log: log, doubt: wait.NewSignal(), moved: make(chan struct{})}
	c.latest.Store(&estimate{})
	return c
}

// local is the present local instant.
func (c *clock) local() time.Duration { return time.Since(c.start) }

// Now is the database's time, or a little less.
func (c *clock) Now() driver.DBTime { return c.at(c.local()) }

// at is the database's time at a local instant since the latest estimate, less what
// may have drifted meanwhile.
func (c *clock) at(local time.Duration) driver.DBTime {
	e := c.latest.Load()
	return driver.DBTime((local + e.offset - drifted(local-e.at)) / time.Microsecond)
}

// drifted is how far two clocks may drift apart within d.
func drifted(d time.Duration) time.Duration { return time.Duration(float64(d) * clockDrift) }

// bound is how far behind Now may be.
func (c *clock) bound() time.Duration { return c.latest.Load().bound }

// observe adds the reading d, requested at the local instant sent and received at
// received. Postgres cuts its clock off to whole microseconds.
func (c *clock) observe(d driver.DBTime, sent, received time.Duration) {
	exact := time.Duration(d) * time.Microsecond
	r := reading{at: received, low: exact - received, high: exact + time.Microsecond - sent}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.readings = append(c.readings, r)
	if len(c.readings) > clockReadings {
		c.readings = c.readings[1:]
	}
	low, high := c.bounds(received)
	contradicts := low > high
	if contradicts {
		c.readings = c.readings[len(c.readings)-1:]
		low, high = r.low, r.high
	}
	old := c.latest.Load()
	c.latest.Store(&estimate{at: received, offset: low, bound: high - low})
	if old.at == 0 {
		return
	}
	if low < old.offset-clockStep {
		c.steps.Add(1)
	}
	if step := low - old.offset; step < -clockStep || step > clockStep {
		close(c.moved) // whoever sleeps until an instant has to compute it again
		c.moved = make(chan struct{})
		if contradicts { // and is not a first reading that took long
			msg := "the database's clock was set ahead, or its server was replaced, or this host slept; jobs fire by its new time"
			if step < 0 {
				msg = "the database's clock was set back, or its server was replaced; jobs fire by its new time"
			}
			c.jumps.Fail(c.log, slog.LevelWarn, msg, "by", step.Round(time.Millisecond))
		}
	}
}

// confirm takes a reading that comes as a by-product, for example of a claim. Such a reading
// may have taken long; then it bounds the offset badly, but it still shows a step.
func (c *clock) confirm(d driver.DBTime, sent, received time.Duration) {
	c.claims.Add(1)
	exact := time.Duration(d) * time.Microsecond
	e := c.latest.Load()
	slack := drifted(received-e.at) + time.Microsecond
	if exact-received > e.offset+e.bound+slack || exact-sent < e.offset-slack {
		c.observe(d, sent, received)
		c.doubt.Set()
	}
}

// Step is closed by the next step of the clock.
func (c *clock) Step() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// bounds intersects the readings, each widened by the possible drift since.
func (c *clock) bounds(now time.Duration) (low, high time.Duration) {
	for i, r := range c.readings {
		drift := drifted(now - r.at)
		if i == 0 || r.low-drift > low {
			low = r.low - drift
		}
		if i == 0 || r.high+drift < high {
			high = r.high + drift
		}
	}
	return low, high
}

// timeSource is what the clock needs of the database.
type timeSource interface {
	Now(ctx context.Context) (driver.DBTime, error)
}

// read takes n readings.
func (c *clock) read(ctx context.Context, source timeSource, n int) error {
	for range n {
		sent := c.local()
		d, err := source.Now(ctx)
		if err != nil {
			return err
		}
		c.observe(d, sent, c.local())
	}
	return nil
}

// run keeps the offset up to date. It does not report failed readings, as other stages report
// an outage: the offset stays, and drifts by microseconds a second. watchClock tells when the
// host's clock is set.
func (c *clock) run(ctx context.Context, source timeSource, watchClock func() clockWatch, answered *moment, pulse *pulse) {
	set := watchClock()
	defer set.Close()
	pulse.begin()
	defer pulse.end()
	var claims int64 // before the latest reading
	for next := time.Now().Add(clockInterval); ; {
		pulse.work() // it never rests for longer than an interval
		timer := time.NewTimer(min(wait.Jitter(busyInterval), max(0, time.Until(next))))
		readings := 1
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			busy := c.claims.Load()-claims >= busyClaims
			if busy {
				readings = busyReadings
			} else if time.Now().Before(next) {
				continue
			}
		case <-set.C():
			readings = clockReadings / 2
		case <-c.doubt:
			readings = clockReadings / 2
		}
		timer.Stop()
		claims, next = c.claims.Load(), time.Now().Add(wait.Jitter(clockInterval))
		readCtx, cancel := context.WithTimeout(ctx, clockInterval)
		if c.read(readCtx, source, readings) == nil {
			answered.touch()
		}
		cancel()
	}
}
