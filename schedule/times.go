package schedule

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"github.com/job-publisher/reactor/internal/zones"
)

// Spec says when something recurs.
type Spec struct {
	// Cron is an expression; Every an interval of a second or more. One of them is given.
	Cron  string
	Every time.Duration
	// Zone is the name of Cron's time zone in the IANA database, such as Europe/Berlin.
	Zone string
	// Anchor is what Every counts from: it recurs at Anchor, and each Every after it.
	Anchor time.Time
	// Start is the earliest time, and End the first that is too late; zero: no limit.
	Start, End time.Time
}

// Times are the times at which something recurs. They do not change, and may be used by several
// goroutines.
type Times struct {
	spec Spec
	zone *time.Location
	// wall finds matching wall-clock times, written as times in UTC, where no clock jumps. nil: Every.
	wall *cron.SpecSchedule
	// elapsed is true if the expression allows every hour, and goes on as time does.
	elapsed bool
}

// searchYears is how far ahead an expression is searched for a match. The 29th of February on a given
// day of the week recurs after 40 years at most.
const searchYears = 41

// allHours are the 24 bits of an hour field that allows every hour.
const allHours = 1<<24 - 1

// parser reads expressions. Descriptors other than @every are allowed.
var parser = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.Extended | cron.DowOrDom).WithMaxSearchYears(searchYears)

// Parse checks a Spec. Its error is one line that says what is wrong with the expression or the zone.
func Parse(spec Spec) (*Times, error) {
	t := &Times{spec: spec}
	if spec.Cron == "" {
		if spec.Every < time.Second {
			return nil, fmt.Errorf("the interval is %v: it must be a second or more", spec.Every)
		}
		return t, nil
	}
	if spec.Zone == "" || spec.Zone == "Local" { // Go's names for UTC, and for the zone of this host
		return nil, fmt.Errorf("the zone %q has no name: use one like Europe/Berlin or UTC", spec.Zone)
	}
	zone, err := zones.Load(spec.Zone)
	if err != nil {
		return nil, fmt.Errorf("the zone %q is not known here: use a name of the IANA database, such as Europe/Berlin", spec.Zone)
	}
	expression := strings.TrimSpace(spec.Cron)
	switch lower := strings.ToLower(expression); {
	case strings.Contains(lower, "tz="):
		return nil, errors.New("the cron expression names a zone: give it as the zone of the schedule")
	case strings.HasPrefix(lower, "@every"):
		return nil, errors.New("the cron expression is an interval: give it as every instead")
	}
	parsed, err := parser.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("the cron expression %q is invalid: %w", spec.Cron, err)
	}
	wall, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("the cron expression %q is none of a wall clock: use five or six fields", spec.Cron)
	}
	wall.Location = time.UTC
	t.zone, t.wall, t.elapsed = zone, wall, wall.Hour&allHours == allHours
	if t.wall.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("the cron expression %q never happens: no date matches it", spec.Cron)
	}
	return t, nil
}

// Zone is the zone of the expression; UTC for an interval without a zone.
func (t *Times) Zone() *time.Location {
	if t.zone == nil {
		return time.UTC
	}
	return t.zone
}

// Next returns the first time after an instant, not at it; ok is false if there is none.
func (t *Times) Next(after time.Time) (next time.Time, ok bool) {
	if !t.spec.Start.IsZero() && after.Before(t.spec.Start) {
		after = t.spec.Start.Add(-1) // Start itself counts
	}
	switch {
	case t.wall == nil:
		next = t.nextInterval(after)
	case t.elapsed:
		next = t.nextElapsed(after)
	default:
		next = t.nextFixed(after)
	}
	if next.IsZero() || !t.spec.End.IsZero() && !next.Before(t.spec.End) {
		return time.Time{}, false
	}
	return next, true
}

// Last returns the latest time in (after, until]; ok is false if there is none. It takes a few steps
// even if the two are years apart: it looks at ever longer stretches before until, so that it steps
// through few more times than the stretch before had none of.
func (t *Times) Last(after, until time.Time) (last time.Time, ok bool) {
	for stretch := time.Minute; ; stretch *= 4 {
		from := until.Add(-stretch)
		all := !from.After(after) || stretch > 50*365*24*time.Hour
		if all {
			from = after
		}
		for next, more := t.Next(from); more && !next.After(until); next, more = t.Next(next) {
			last, ok = next, true
		}
		if ok || all {
			return last, ok
		}
	}
}

// nextInterval counts from the anchor, which is the first.
func (t *Times) nextInterval(after time.Time) time.Time {
	if after.Before(t.spec.Anchor) {
		return t.spec.Anchor
	}
	// after minus the anchor may be thousands of years, and a time.Duration has 292. So it is computed in
	// 128 bits, of which only the rest by the interval is needed.
	seconds, nanoseconds := after.Unix()-t.spec.Anchor.Unix(), int64(after.Nanosecond()-t.spec.Anchor.Nanosecond())
	if nanoseconds < 0 {
		seconds, nanoseconds = seconds-1, nanoseconds+1e9
	}
	high, low := bits.Mul64(uint64(seconds), 1e9)
	low, carry := bits.Add64(low, uint64(nanoseconds), 0)
	since := bits.Rem64(high+carry, low, uint64(t.spec.Every))
	return after.Add(t.spec.Every - time.Duration(since))
}

// nextElapsed goes through the stretches of time in which the zone's offset is constant: within one, the
// wall clock runs as time does. A wall-clock time that lies behind the end of its stretch does not exist
// there; the next stretch may begin with earlier ones, which then exist for the second time.
func (t *Times) nextElapsed(after time.Time) time.Time {
	for at := after.In(t.zone); ; {
		_, offset := at.Zone()
		_, end := at.ZoneBounds()
		next := instant(t.wall.Next(wallOf(after, offset)), offset)
		if next.IsZero() || end.IsZero() || next.Before(end) {
			return next
		}
		at, after = end, end.Add(-1) // end itself may match
		// Offsets differ by little more than a day: nothing matches long before next. Without this, one that
		// matches once in decades would be searched for from each jump on.
		if near := next.Add(-48 * time.Hour).In(t.zone); near.After(end) {
			at, after = near, near
		}
	}
}

// nextFixed goes through the matching wall-clock times from that of after on, until one occurs later. A
// later wall-clock time never occurs earlier, so none is missed. After a jump back, times of the hour
// that is repeated have occurred already, and are passed over.
func (t *Times) nextFixed(after time.Time) time.Time {
	_, offset := after.In(t.zone).Zone()
	wall := wallOf(after, offset).Add(-1)
	for {
		if wall = t.wall.Next(wall); wall.IsZero() {
			return wall
		}
		if next := t.occurs(wall); next.After(after) {
			return next
		}
	}
}

// occurs returns the first instant at which the wall clock shows a time, or the instant at which it jumps
// over it.
func (t *Times) occurs(wall time.Time) time.Time {
	// An offset is less than a day, so this is before the instant.
	for at := wall.Add(-24 * time.Hour).In(t.zone); ; {
		_, offset := at.Zone()
		start, end := at.ZoneBounds()
		next := instant(wall, offset)
		if !start.IsZero() && next.Before(start) {
			return start
		}
		if end.IsZero() || next.Before(end) {
			return next
		}
		at = end
	}
}

// wallOf writes the wall clock of a zone as a time in UTC; offset is that of the zone at the instant.
func wallOf(at time.Time, offset int) time.Time {
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is the opposite of wallOf. Zero stays zero.
func instant(wall time.Time, offset int) time.Time {
	if wall.IsZero() {
		return wall
	}
	return wall.Add(-time.Duration(offset) * time.Second)
}
