package schedule_test

import (
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/schedule"
)

// clock returns an instant of the test's day.
func clock(t *testing.T, text string) time.Time { return at(t, "2026-05-04T"+text+"Z") }

func TestPlan(t *testing.T) {
	horizon := schedule.Horizon{Ahead: 20 * time.Second, Lead: 10 * time.Second}
	for _, c := range []struct {
		name, cron     string
		policy         schedule.Policy
		decided, now   string
		busy           bool
		limit          int
		made           []string
		next, look     string
		overlappedMost int
	}{
		{name: "ahead", cron: "*/5 * * * * *", decided: "11:59:59", now: "12:00:00", limit: 99, made: []string{"12:00:00", "12:00:05", "12:00:10", "12:00:15", "12:00:20"}, next: "12:00:25", look: "12:00:15"},
		{name: "not yet", cron: "* * * * *", decided: "12:00:00", now: "12:00:01", limit: 99, next: "12:01:00", look: "12:00:50"},
		{name: "the limit", cron: "* * * * * *", decided: "12:00:00", now: "12:00:01", limit: 2, made: []string{"12:00:01", "12:00:02"}, next: "12:00:03", look: "12:00:01"},
		{name: "a short interruption", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpSkip}, decided: "12:00:30", now: "12:01:09", limit: 99, made: []string{"12:01:00"}, next: "12:02:00", look: "12:01:50"},
		{name: "skip", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpSkip}, decided: "12:00:00", now: "12:05:30", limit: 99, next: "12:06:00", look: "12:05:50"},
		{name: "once", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpOnce}, decided: "12:00:00", now: "12:05:30", limit: 99, made: []string{"12:05:00"}, next: "12:06:00", look: "12:05:50"},
		{name: "once, nothing missed", cron: "0 * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpOnce}, decided: "12:00:00", now: "12:05:30", limit: 99, next: "13:00:00", look: "12:59:50"},
		{name: "all", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpAll, Window: time.Hour}, decided: "12:03:00", now: "12:05:30", limit: 99, made: []string{"12:04:00", "12:05:00"}, next: "12:06:00", look: "12:05:50"},
		{name: "all of a window", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpAll, Window: 2 * time.Minute}, decided: "01:00:00", now: "12:05:30", limit: 99, made: []string{"12:04:00", "12:05:00"}, next: "12:06:00", look: "12:05:50"},
		{name: "too late", cron: "* * * * *", policy: schedule.Policy{CatchUp: schedule.CatchUpAll, Window: time.Hour, MaxLateness: time.Minute}, decided: "12:03:00", now: "12:05:30", limit: 99, made: []string{"12:05:00"}, next: "12:06:00", look: "12:05:50"},
		{name: "alone and idle", cron: "*/5 * * * * *", policy: schedule.Policy{Alone: true}, decided: "12:00:00", now: "12:00:01", limit: 99, made: []string{"12:00:05"}, next: "12:00:10", look: "12:00:10"},
		{name: "alone, long before", cron: "* * * * *", policy: schedule.Policy{Alone: true}, decided: "12:00:00", now: "12:00:55", limit: 99, made: []string{"12:01:00"}, next: "12:02:00", look: "12:01:50"},
		{name: "alone and busy, before", cron: "*/5 * * * * *", policy: schedule.Policy{Alone: true}, decided: "12:00:05", now: "12:00:09", busy: true, limit: 99, next: "12:00:10", look: "12:00:10"},
		{name: "alone and busy, at the time", cron: "*/5 * * * * *", policy: schedule.Policy{Alone: true}, decided: "12:00:05", now: "12:00:10", busy: true, limit: 99, next: "12:00:15", look: "12:00:15", overlappedMost: 1},
	} {
		p := parse(t, schedule.Spec{Cron: c.cron, Zone: "UTC"}).Plan(c.policy, horizon, clock(t, c.decided), clock(t, c.now), c.busy, c.limit)
		var made []string
		for _, o := range p.Make {
			made = append(made, o.At.Format(time.TimeOnly))
			if !o.Fire.Equal(o.At) {
				t.Errorf("%s: %v fires at %v without a jitter", c.name, o.At, o.Fire)
			}
		}
		if !slices.Equal(made, c.made) || p.Overlapped != c.overlappedMost {
			t.Errorf("%s: made %v and left out %d, want %v and %d", c.name, made, p.Overlapped, c.made, c.overlappedMost)
		}
		if got := p.Next.Format(time.TimeOnly); got != c.next {
			t.Errorf("%s: the next is %s, want %s", c.name, got, c.next)
		}
		if got := p.Look.Format(time.TimeOnly); got != c.look {
			t.Errorf("%s: looks again at %s, want %s", c.name, got, c.look)
		}
	}
}

// TestPlansFollowEachOther: whenever plans are made, without an outage they make each occurrence once.
func TestPlansFollowEachOther(t *testing.T) {
	times := parse(t, schedule.Spec{Cron: "*/7 * * * * *", Zone: "Europe/Berlin"})
	begin := at(t, "2026-10-25T00:30:00Z") // an hour that comes twice
	decided, made := begin, map[int64]int{}
	for now := begin; now.Before(begin.Add(2 * time.Hour)); now = now.Add(3700 * time.Millisecond) {
		p := times.Plan(schedule.Policy{CatchUp: schedule.CatchUpSkip}, schedule.Horizon{Ahead: 20 * time.Second, Lead: 10 * time.Second}, decided, now, false, 3)
		for _, o := range p.Make {
			made[o.At.Unix()]++
		}
		decided = p.Decided
	}
	n := 0
	for next, ok := times.Next(begin); ok && next.Before(begin.Add(2*time.Hour)); next, ok = times.Next(next) {
		if n++; made[next.Unix()] != 1 {
			t.Errorf("%v is made %d times", next, made[next.Unix()])
		}
	}
	if n != 2*60*9-1 { // without the beginning itself
		t.Errorf("%d occurrences in two hours, want nine a minute", n)
	}
}

// TestEnd: after the last occurrence there is nothing to look at.
func TestEnd(t *testing.T) {
	times := parse(t, schedule.Spec{Cron: "* * * * *", Zone: "UTC", End: clock(t, "12:02:00")})
	p := times.Plan(schedule.Policy{}, schedule.Horizon{Ahead: time.Minute, Lead: time.Second}, clock(t, "12:00:30"), clock(t, "12:00:30"), false, 99)
	if len(p.Make) != 1 || !p.Next.IsZero() || !p.Look.IsZero() {
		t.Errorf("%+v, want one more and then nothing", p)
	}
}

// TestJitter: it is the same each time, stays in its bounds, and spreads.
func TestJitter(t *testing.T) {
	begin := clock(t, "00:00:00")
	var quarters [4]int
	for i := range 4000 {
		when := begin.Add(time.Duration(i) * time.Second)
		j := schedule.Jitter(7, when, time.Minute)
		if j != schedule.Jitter(7, when, time.Minute) || j < 0 || j >= time.Minute {
			t.Fatalf("the jitter is %v", j)
		}
		quarters[j/(15*time.Second)]++
	}
	for _, n := range quarters {
		if n < 850 || n > 1150 {
			t.Errorf("of 4000, the quarters have %v", quarters)
		}
	}
	if schedule.Jitter(7, begin, time.Minute) == schedule.Jitter(8, begin, time.Minute) {
		t.Error("two schedules have the same jitter")
	}
	if schedule.Jitter(7, begin, 0) != 0 {
		t.Error("without a jitter there is one")
	}
}
