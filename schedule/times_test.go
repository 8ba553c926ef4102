package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/schedule"
)

func parse(t *testing.T, spec schedule.Spec) *schedule.Times {
	t.Helper()
	times, err := schedule.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	return times
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	instant, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return instant
}

// TestDaylightSaving compares with a table that was made by hand: each line has the expression, an
// instant, and all occurrences from there on until the count is reached, with the offsets that hold
// then.
func TestDaylightSaving(t *testing.T) {
	const berlin, newYork, lordHowe = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
	for _, c := range []struct{ zone, cron, after, want string }{
		// Berlin, 29 March 2026: 02:00 +01:00 becomes 03:00 +02:00.
		{berlin, "30 2 * * *", "2026-03-27T12:00:00Z", "28T02:30+01:00 29T03:00+02:00 30T02:30+02:00"},
		{berlin, "0 2 * * *", "2026-03-28T12:00:00Z", "29T03:00+02:00 30T02:00+02:00"},
		{berlin, "0 3 * * *", "2026-03-28T12:00:00Z", "29T03:00+02:00 30T03:00+02:00"},
		{berlin, "59 1 * * *", "2026-03-28T12:00:00Z", "29T01:59+01:00 30T01:59+02:00"},
		{berlin, "*/20 2 * * *", "2026-03-29T00:00:00Z", "29T03:00+02:00 30T02:00+02:00 30T02:20+02:00"},
		{berlin, "0 2,3,4 * * *", "2026-03-29T00:00:00Z", "29T03:00+02:00 29T04:00+02:00 30T02:00+02:00"},
		{berlin, "30 1-3 * * *", "2026-03-29T00:00:00Z", "29T01:30+01:00 29T03:00+02:00 29T03:30+02:00"},
		{berlin, "0 */2 * * *", "2026-03-28T22:30:00Z", "29T00:00+01:00 29T03:00+02:00 29T04:00+02:00"},
		{berlin, "30 * * * *", "2026-03-29T00:00:00Z", "29T01:30+01:00 29T03:30+02:00 29T04:30+02:00"},
		{berlin, "*/30 * * * *", "2026-03-29T00:00:00Z", "29T01:30+01:00 29T03:00+02:00 29T03:30+02:00"},
		{berlin, "59 59 * * * *", "2026-03-29T00:00:00Z", "29T01:59:59+01:00 29T03:59:59+02:00"},
		{berlin, "*/30 59 1 * * *", "2026-03-29T00:59:00Z", "29T01:59:30+01:00 30T01:59+02:00"},
		// Berlin, 25 October 2026: 03:00 +02:00 becomes 02:00 +01:00.
		{berlin, "30 2 * * *", "2026-10-23T12:00:00Z", "24T02:30+02:00 25T02:30+02:00 26T02:30+01:00"},
		{berlin, "30 2 * * *", "2026-10-25T00:45:00Z", "26T02:30+01:00"},
		{berlin, "30 2 * * *", "2026-10-25T01:15:00Z", "26T02:30+01:00"},
		{berlin, "0 3 * * *", "2026-10-24T12:00:00Z", "25T03:00+01:00 26T03:00+01:00"},
		{berlin, "*/20 2 * * *", "2026-10-24T23:50:00Z", "25T02:00+02:00 25T02:20+02:00 25T02:40+02:00 26T02:00+01:00"},
		{berlin, "0 */2 * * *", "2026-10-24T21:30:00Z", "25T00:00+02:00 25T02:00+02:00 25T04:00+01:00"},
		{berlin, "30 * * * *", "2026-10-24T23:00:00Z", "25T01:30+02:00 25T02:30+02:00 25T02:30+01:00 25T03:30+01:00"},
		{berlin, "0 * * * *", "2026-10-24T23:30:00Z", "25T02:00+02:00 25T02:00+01:00 25T03:00+01:00"},
		{berlin, "59 59 * * * *", "2026-10-25T00:30:00Z", "25T02:59:59+02:00 25T02:59:59+01:00 25T03:59:59+01:00"},
		// New York, 8 March 2026: 02:00 -05:00 becomes 03:00 -04:00.
		{newYork, "30 2 * * *", "2026-03-07T12:00:00Z", "08T03:00-04:00 09T02:30-04:00"},
		{newYork, "15 2 * * SUN", "2026-03-07T12:00:00Z", "08T03:00-04:00 15T02:15-04:00"},
		{newYork, "0 9 * * MON-FRI", "2026-03-06T15:00:00Z", "09T09:00-04:00 10T09:00-04:00"},
		{newYork, "15 * * * *", "2026-03-08T06:00:00Z", "08T01:15-05:00 08T03:15-04:00 08T04:15-04:00"},
		{newYork, "@hourly", "2026-03-08T05:30:00Z", "08T01:00-05:00 08T03:00-04:00 08T04:00-04:00"},
		// New York, 1 November 2026: 02:00 -04:00 becomes 01:00 -05:00.
		{newYork, "30 1 * * *", "2026-10-31T12:00:00Z", "01T01:30-04:00 02T01:30-05:00"},
		{newYork, "0 2 * * *", "2026-10-31T12:00:00Z", "01T02:00-05:00 02T02:00-05:00"},
		{newYork, "15 * * * *", "2026-11-01T04:30:00Z", "01T01:15-04:00 01T01:15-05:00 01T02:15-05:00"},
		{newYork, "@daily", "2026-10-31T12:00:00Z", "01T00:00-04:00 02T00:00-05:00"},
		// Lord Howe, 5 April 2026: 02:00 +11:00 becomes 01:30 +10:30.
		{lordHowe, "45 1 * * *", "2026-04-03T20:00:00Z", "05T01:45+11:00 06T01:45+10:30"},
		{lordHowe, "15 1 * * *", "2026-04-04T10:00:00Z", "05T01:15+11:00 06T01:15+10:30"},
		{lordHowe, "0 2 * * *", "2026-04-04T10:00:00Z", "05T02:00+10:30 06T02:00+10:30"},
		{lordHowe, "45 * * * *", "2026-04-04T13:00:00Z", "05T00:45+11:00 05T01:45+11:00 05T01:45+10:30 05T02:45+10:30"},
		{lordHowe, "*/15 * * * *", "2026-04-04T14:20:00Z", "05T01:30+11:00 05T01:45+11:00 05T01:30+10:30 05T01:45+10:30 05T02:00+10:30"},
		// Lord Howe, 4 October 2026: 02:00 +10:30 becomes 02:30 +11:00.
		{lordHowe, "15 2 * * *", "2026-10-02T20:00:00Z", "04T02:30+11:00 05T02:15+11:00"},
		{lordHowe, "30 2 * * *", "2026-10-03T10:00:00Z", "04T02:30+11:00 05T02:30+11:00"},
		{lordHowe, "0,15,30,45 2 * * *", "2026-10-03T10:00:00Z", "04T02:30+11:00 04T02:45+11:00 05T02:00+11:00"},
		{lordHowe, "15 * * * *", "2026-10-03T14:00:00Z", "04T01:15+10:30 04T03:15+11:00 04T04:15+11:00"},
		{lordHowe, "*/15 * * * *", "2026-10-03T15:10:00Z", "04T01:45+10:30 04T02:30+11:00 04T02:45+11:00"},
		// Other ways to jump. Cairo, 24 April 2026: 00:00 +02:00 becomes 01:00 +03:00. Apia had no 30
		// December 2011.
		{"Africa/Cairo", "0 0 * * *", "2026-04-22T23:00:00Z", "24T01:00+03:00 25T00:00+03:00"},
		{"Pacific/Apia", "0 12 * * *", "2011-12-29T00:00:00Z", "29T12:00-10:00 31T00:00+14:00 31T12:00+14:00"},
		{"UTC", "0 0 L 2 *", "2026-03-01T00:00:00Z", "28T00:00Z 29T00:00Z"},
	} {
		times := parse(t, schedule.Spec{Cron: c.cron, Zone: c.zone})
		var got []string
		now := at(t, c.after)
		for range strings.Fields(c.want) {
			next, ok := times.Next(now)
			if !ok || !next.After(now) {
				t.Fatalf("%s %s after %v: %v", c.zone, c.cron, now, next)
			}
			format := "02T15:04Z07:00"
			if next.Second() != 0 {
				format = "02T15:04:05Z07:00"
			}
			got = append(got, next.In(times.Zone()).Format(format))
			now = next
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s in %s after %s:\n got %s\nwant %s", c.cron, c.zone, c.after, got, c.want)
		}
	}
}

// TestAgainstEverySecond compares with a loop over every second around the jumps of many zones.
func TestAgainstEverySecond(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(below, most int) (list []int) {
		for range 1 + random.IntN(most) {
			list = append(list, random.IntN(below))
		}
		return list
	}
	text := func(list []int) string {
		return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ","), "[]")
	}
	for _, jump := range []struct{ zone, at string }{
		{"Europe/Berlin", "2026-03-29T01:00:00Z"},
		{"Europe/Berlin", "2026-10-25T01:00:00Z"},
		{"America/New_York", "2026-03-08T07:00:00Z"},
		{"America/New_York", "2026-11-01T06:00:00Z"},
		{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
		{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"},
		{"Africa/Cairo", "2026-04-23T22:00:00Z"},
		{"America/Havana", "2026-11-01T05:00:00Z"},
		{"Pacific/Apia", "2011-12-30T10:00:00Z"},
	} {
		zone, err := time.LoadLocation(jump.zone)
		if err != nil {
			t.Fatal(err)
		}
		center := at(t, jump.at)
		if _, before := center.Add(-time.Second).In(zone).Zone(); func() bool { _, after := center.In(zone).Zone(); return after == before }() {
			t.Fatalf("%s does not jump at %v", jump.zone, center)
		}
		for range 30 {
			seconds, minutes := some(60, 2), some(60, 4)
			hours, every := some(8, 3), random.IntN(2) == 0
			hourText := text(hours)
			if every {
				hourText = "*"
			}
			expression := fmt.Sprintf("%s %s %s * * *", text(seconds), text(minutes), hourText)
			matches := func(wall time.Time) bool {
				return slices.Contains(seconds, wall.Second()) && slices.Contains(minutes, wall.Minute()) && (every || slices.Contains(hours, wall.Hour()))
			}
			var want []time.Time
			begin, end := center.Add(-4*time.Hour), center.Add(4*time.Hour)
			_, offset := begin.In(zone).Zone()
			highest := begin.UTC().Add(time.Duration(offset) * time.Second) // what the wall clock has shown
			for now := begin.Add(time.Second); !now.After(end); now = now.Add(time.Second) {
				_, offset := now.In(zone).Zone()
				wall := now.UTC().Add(time.Duration(offset) * time.Second)
				occurs := every && matches(wall)
				for ; !every && highest.Before(wall); highest = highest.Add(time.Second) {
					occurs = occurs || matches(highest.Add(time.Second))
				}
				if occurs {
					want = append(want, now)
				}
			}
			times := parse(t, schedule.Spec{Cron: expression, Zone: jump.zone})
			var got []time.Time
			for next, ok := times.Next(begin); ok && !next.After(end); next, ok = times.Next(next) {
				got = append(got, next.UTC())
			}
			if !slices.EqualFunc(got, want, time.Time.Equal) {
				t.Errorf("%s in %s around %v:\n got %v\nwant %v", expression, jump.zone, center, got, want)
			}
		}
	}
}

// TestRareDates: an expression for every hour that matches once in years is found behind many jumps of the
// clock.
func TestRareDates(t *testing.T) {
	times := parse(t, schedule.Spec{Cron: "30 * 29 2 *", Zone: "Europe/Berlin"})
	for after, want := range map[string]string{
		"2096-02-29T22:30:00Z": "2104-02-28T23:30:00Z", // 2100 is no leap year
		"2028-02-28T23:29:59Z": "2028-02-28T23:30:00Z",
		"2028-02-29T22:30:00Z": "2032-02-28T23:30:00Z",
	} {
		if next, ok := times.Next(at(t, after)); !ok || !next.Equal(at(t, want)) {
			t.Errorf("after %s comes %v, want %s", after, next, want)
		}
	}
}

func TestInterval(t *testing.T) {
	anchor := at(t, "2026-01-01T00:00:07Z")
	times := parse(t, schedule.Spec{Every: 90 * time.Second, Anchor: anchor, Start: at(t, "2026-01-01T00:01:00Z"), End: at(t, "2026-01-01T00:06:07Z")})
	var got []string
	for next, ok := times.Next(at(t, "2025-01-01T00:00:00Z")); ok; next, ok = times.Next(next) {
		got = append(got, next.Format("04:05"))
	}
	if want := "01:37 03:07 04:37"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if next, _ := parse(t, schedule.Spec{Every: time.Hour, Anchor: anchor}).Next(anchor); !next.Equal(anchor.Add(time.Hour)) {
		t.Errorf("after the anchor comes %v", next)
	}
	if next, _ := parse(t, schedule.Spec{Every: time.Hour, Anchor: anchor}).Next(anchor.Add(-1)); !next.Equal(anchor) {
		t.Errorf("before the anchor comes %v", next)
	}
}

// TestDistantAnchor: an interval may be counted from any time, also one that is further away than a
// time.Duration can be.
func TestDistantAnchor(t *testing.T) {
	now := at(t, "2026-01-01T00:00:07.5Z")
	for _, year := range []int{-4712, 1, 1700, 1969, 2026, 2300, 294246} {
		for _, every := range []time.Duration{time.Second, 7 * time.Hour, 366 * 24 * time.Hour} {
			anchor := time.Date(year, 1, 1, 0, 0, 0, 250_000_000, time.UTC)
			times := parse(t, schedule.Spec{Every: every, Anchor: anchor})
			next, ok := times.Next(now)
			if anchor.After(now) {
				if !next.Equal(anchor) {
					t.Errorf("every %v from %v: after %v comes %v", every, anchor, now, next)
				}
				continue
			}
			// Intervals are whole seconds here.
			if rest := (next.Unix() - anchor.Unix()) % int64(every/time.Second); !ok || rest != 0 || next.Nanosecond() != anchor.Nanosecond() || !next.After(now) || next.Add(-every).After(now) {
				t.Errorf("every %v from %v: after %v comes %v", every, anchor, now, next)
			}
			if after, _ := times.Next(next); !after.Equal(next.Add(every)) {
				t.Errorf("every %v from %v: after %v comes %v", every, anchor, next, after)
			}
		}
	}
}

// TestBounds: the first occurrence may be at the start, the last one is before the end.
func TestBounds(t *testing.T) {
	times := parse(t, schedule.Spec{Cron: "0 12 * * *", Zone: "UTC", Start: at(t, "2026-05-02T12:00:00Z"), End: at(t, "2026-05-04T12:00:00Z")})
	var got []string
	for next, ok := times.Next(at(t, "2026-01-01T00:00:00Z")); ok; next, ok = times.Next(next) {
		got = append(got, next.Format("02"))
	}
	if strings.Join(got, " ") != "02 03" {
		t.Errorf("%v, want the 2nd and the 3rd", got)
	}
}

func TestLast(t *testing.T) {
	for _, c := range []struct{ cron, after, until, want string }{
		{"* * * * * *", "1990-01-01T00:00:00Z", "2026-05-04T12:00:00Z", "2026-05-04T12:00:00Z"},
		{"0 0 1 1 *", "1990-01-01T00:00:00Z", "2026-05-04T12:00:00Z", "2026-01-01T00:00:00Z"},
		{"0 0 29 2 *", "1900-03-01T00:00:00Z", "2103-05-04T12:00:00Z", "2096-02-29T00:00:00Z"},
		{"0 0 1 1 *", "2026-01-01T00:00:00Z", "2026-05-04T12:00:00Z", ""},
	} {
		last, ok := parse(t, schedule.Spec{Cron: c.cron, Zone: "UTC"}).Last(at(t, c.after), at(t, c.until))
		if ok != (c.want != "") || ok && !last.Equal(at(t, c.want)) {
			t.Errorf("%s between %s and %s: %v %v, want %s", c.cron, c.after, c.until, last, ok, c.want)
		}
	}
}

func TestParseExplains(t *testing.T) {
	for _, c := range []struct {
		spec schedule.Spec
		want string
	}{
		{schedule.Spec{Cron: "61 * * * *", Zone: "UTC"}, "is invalid"},
		{schedule.Spec{Cron: "* * *", Zone: "UTC"}, "is invalid"},
		{schedule.Spec{Cron: "* * * * * * *", Zone: "UTC"}, "is invalid"},
		{schedule.Spec{Cron: "TZ=", Zone: "UTC"}, "names a zone"},
		{schedule.Spec{Cron: "CRON_TZ=UTC * * * * *", Zone: "UTC"}, "names a zone"},
		{schedule.Spec{Cron: "@every 1m", Zone: "UTC"}, "as every"},
		{schedule.Spec{Cron: "@reboot", Zone: "UTC"}, "is invalid"},
		{schedule.Spec{Cron: "0 0 30 2 *", Zone: "UTC"}, "never happens"},
		{schedule.Spec{Cron: "* * * * *", Zone: "Mars/Olympus"}, "is not known here"},
		{schedule.Spec{Cron: "* * * * *", Zone: "Local"}, "has no name"},
		{schedule.Spec{Cron: "* * * * *", Zone: "../../etc/passwd"}, "is not known here"},
		{schedule.Spec{Every: time.Millisecond}, "a second or more"},
	} {
		_, err := schedule.Parse(c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want a line with %q", c.spec, err, c.want)
		}
	}
}

// FuzzParse: whatever somebody writes into the table, there is an error or a later time.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"* * * * *", "0 0 L * FRI#2", "@daily", "H H * * *", "5-1 22-2 * * *", "0 0 15W * *", "*/0 * * * *", "TZ=UTC", "1/99999999999999999999 * * * *"} {
		f.Add(seed, int64(1774746000))
	}
	f.Fuzz(func(t *testing.T, expression string, seconds int64) {
		times, err := schedule.Parse(schedule.Spec{Cron: expression, Zone: "Australia/Lord_Howe"})
		if err != nil {
			return
		}
		now := time.Unix(seconds%(1<<33), 0)
		if next, ok := times.Next(now); ok && !next.After(now) {
			t.Errorf("%q: after %v comes %v", expression, now, next)
		}
	})
}

func ExampleTimes_Next() {
	times, err := schedule.Parse(schedule.Spec{Cron: "30 2 * * *", Zone: "Europe/Berlin"})
	if err != nil {
		fmt.Println(err)
		return
	}
	next := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	for range 2 {
		next, _ = times.Next(next)
		fmt.Println(next.In(times.Zone()).Format(time.RFC3339))
	}
	// Output:
	// 2026-03-29T03:00:00+02:00
	// 2026-03-30T02:30:00+02:00
}
