package reactor

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestStaging: what the broker says when it is asked, and what is wanted of it, decide whether a job is
// sent before its time.
func TestStaging(t *testing.T) {
	unclear := fmt.Errorf("%w: not allowed", driver.ErrCannotAsk)
	for name, c := range map[string]struct {
		stage   Staging
		passing driver.Passing
		why     error
		staged  bool
	}{
		"at release":              {StageAuto, driver.PassesOnAtRelease, nil, true},
		"at publish":              {StageAuto, driver.PassesOnAtPublish, nil, false},
		"unclear":                 {StageAuto, driver.PassingUnclear, unclear, false},
		"unclear, and on":         {StageOn, driver.PassingUnclear, unclear, true},
		"at publish, whatever on": {StageOn, driver.PassesOnAtPublish, nil, false},
		"off":                     {StageOff, driver.PassesOnAtRelease, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			runs(t, func(r *running) {
				r.stage = c.stage
				r.broker.passing, r.broker.passingUnclear = c.passing, c.why
			}, func(r *running) {
				staging := int64(0)
				if c.staged {
					staging = 1
				}
				if n := r.stats.lanesStaging.Load(); n != staging {
					r.Errorf("%d lanes stage", n)
				}
				r.due <- due{ids: []int64{1}} // due in a second
				time.Sleep(time.Second / 2)
				synctest.Wait()
				if sent := len(r.broker.sent(runnerClient)); sent == 1 != c.staged {
					r.Fatalf("%d messages are sent before their time", sent)
				}
				if n := r.stats.published.Load(); n != 0 {
					r.Errorf("%d count as published before their time", n)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if r.broker.got("t") != 1 || !r.idle() || r.stats.published.Load() != 1 {
					r.Errorf("received %d, idle %t, published %d", r.broker.got("t"), r.idle(), r.stats.published.Load())
				}
			})
		})
	}
}

// TestStagingIsAskedAnew: a broker that was away may be another one. What was staged is sent again
// only at its time, where it passes on what is published.
func TestStagingIsAskedAnew(t *testing.T) {
	runs(t, func(r *running) { r.broker.passing = driver.PassesOnAtRelease }, func(r *running) {
		r.due <- due{ids: []int64{1}}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(r.broker.sent(runnerClient)) != 1 {
			r.Fatal("not staged")
		}
		r.broker.change(func(b *fakeBroker) { b.passing = driver.PassesOnAtPublish })
		r.broker.open[runnerClient].end(errors.New("upgraded"))
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if sent := r.broker.sent(runnerClient); len(sent) != 0 || r.stats.lanesStaging.Load() != 0 || r.stats.lanesUp.Load() != 1 {
			r.Errorf("sent %+v over the next session, %d lanes stage", sent, r.stats.lanesStaging.Load())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if sent := r.broker.sent(runnerClient); len(sent) != 1 || !sent[0].Dup || !r.idle() {
			r.Errorf("sent %+v, idle %t", sent, r.idle())
		}
	})
}

// TestStagingIsAskedAgain: a question without an answer is repeated, also where staging is on.
func TestStagingIsAskedAgain(t *testing.T) {
	runs(t, func(r *running) {
		r.stage = StageOn
		r.broker.passing, r.broker.passingUnclear = driver.PassingUnclear, errAway
	}, func(r *running) {
		if r.stats.lanesStaging.Load() != 0 {
			r.Error("it stages without an answer")
		}
		r.broker.change(func(b *fakeBroker) { b.passing, b.passingUnclear = driver.PassesOnAtRelease, nil })
		time.Sleep(2 * longestAskPause)
		synctest.Wait()
		if r.stats.lanesStaging.Load() != 1 {
			r.Error("it was not asked again")
		}
	})
}

// TestStagedAtAStop: what is staged is published at its time, within the grace; the lane ends then.
func TestStagedAtAStop(t *testing.T) {
	runs(t, func(r *running) { r.broker.passing = driver.PassesOnAtRelease }, func(r *running) {
		r.due <- due{ids: []int64{1, 3600}} // the second one is too far ahead to be staged
		time.Sleep(time.Millisecond)
		synctest.Wait()
		begun := time.Now()
		r.stop()
		<-r.done
		if ended := time.Since(begun); ended < time.Second-10*time.Millisecond || ended > 2*time.Second {
			r.Errorf("the lane ended after %v", ended)
		}
		if r.stats.published.Load() != 1 || r.stats.returned.Load() != 1 || r.broker.got("t") != 1 {
			r.Errorf("published %d, handed back %d, received %d", r.stats.published.Load(), r.stats.returned.Load(), r.broker.got("t"))
		}
	})
}

// TestLead: claims are made earlier where messages are staged, by what that takes; and they reach a
// little further than they must, for company.
func TestLead(t *testing.T) {
	l := newLead()
	for range 100 {
		l.observe(time.Millisecond)
		l.acknowledged(time.Millisecond)
		l.settled(time.Millisecond)
	}
	before := l.get()
	if before > 4*time.Millisecond || l.reach() != before+company {
		t.Errorf("claims are made %v before, and reach %v", before, l.reach())
	}
	l.stages(1)
	if staged := l.get(); staged < before+2*time.Millisecond || staged > before+5*time.Millisecond {
		t.Errorf("where messages are staged, claims are made %v before", staged)
	}
	for range 100 {
		l.settled(time.Second)
	}
	if l.get() > before+maxStageLead {
		t.Errorf("the lead is %v when a settlement takes a second", l.get())
	}
	l.stages(-1)
	if l.get() != before {
		t.Errorf("without staging %v, was %v", l.get(), before)
	}
	for range 100 {
		l.observe(time.Second)
	}
	if l.get() != maxLead || l.reach() > 2*maxLead {
		t.Errorf("the lead is %v, and reaches %v, when a claim takes a second", l.get(), l.reach())
	}
}
