package pgsource_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestExtremeInstants: the claim, the journal and a load read every possible timestamp of a row
// correctly.
func TestExtremeInstants(t *testing.T) {
	b := newBench(t)
	at := func(year int, month time.Month, day, hour int) driver.DBTime {
		return driver.DBTimeOf(time.Date(year, month, day, hour, 0, 0, 0, time.UTC))
	}
	first := at(-4713, 11, 24, 0)
	want := map[string]driver.Job{
		"never":         {FireAt: at(1970, 1, 1, 0)},
		"epoch":         {FireAt: at(1969, 12, 31, 0), ExpiresAt: 0, Expires: true},
		"last":          {FireAt: at(2000, 1, 1, 0), ExpiresAt: math.MaxInt64, Expires: true},
		"last that fit": {FireAt: at(2020, 1, 1, 0), ExpiresAt: at(294247, 1, 10, 4), Expires: true},
		"first":         {FireAt: first, ExpiresAt: first, Expires: true},
		"oldest":        {FireAt: at(-4712, 1, 1, 0), ExpiresAt: at(2320, 1, 1, 0), Expires: true},
	}
	b.exec(`SET TimeZone = 'UTC';
		INSERT INTO jobs (topic, fire_at, expires_at) VALUES
		('never',         '1970-01-01',               NULL),
		('epoch',         '1969-12-31',               '1970-01-01'),
		('last',          '2000-01-01',               '294276-12-31 23:59:59.999999'),
		('last that fit', '2020-01-01',               '294247-01-10 04:00'),
		('first',         '4714-11-24 00:00:00 BC',   '4714-11-24 00:00:00 BC'),
		('oldest',        '4713-01-01 BC',            '2320-01-01');
		INSERT INTO jobs (topic, fire_at) VALUES ('far future', '294276-12-31 23:59:59.999999')`)

	pending, _, err := b.LoadWindow(b.ctx, cursors(math.MinInt64), b.now(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	due := map[int64]driver.DBTime{}
	for _, p := range pending {
		ids = append(ids, p.ID)
		due[p.ID] = p.DueAt
	}
	if len(ids) != len(want) {
		t.Fatalf("loaded %+v, want %d jobs", pending, len(want))
	}
	claimed := b.claim(ids)
	recovered, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(recovered) != 1 {
		t.Fatalf("recovered %+v, %v", recovered, err)
	}
	for by, batch := range map[string]driver.Batch{"claim": claimed, "journal": recovered[0]} {
		if len(batch.Jobs) != len(want) {
			t.Errorf("%s: %d jobs, want %d", by, len(batch.Jobs), len(want))
		}
		for i, job := range batch.Jobs {
			w := want[job.Topic]
			if job.FireAt != w.FireAt || due[job.ID] != w.FireAt || job.ExpiresAt != w.ExpiresAt || job.Expires != w.Expires {
				t.Errorf("%s: %q fires at %d (loaded: %d) and expires at %d, %v; want %d and %d, %v",
					by, job.Topic, job.FireAt, due[job.ID], job.ExpiresAt, job.Expires, w.FireAt, w.ExpiresAt, w.Expires)
			}
			if i > 0 && job.FireAt < batch.Jobs[i-1].FireAt {
				t.Errorf("%s: %q is out of order", by, job.Topic)
			}
		}
	}
	// The last instant as a bound: what does not fit is beyond it.
	if late, _, err := b.LoadWindow(b.ctx, cursors(b.now()), math.MaxInt64, 1000); err != nil || len(late) != 0 {
		t.Errorf("loaded %+v, %v before the last instant that fits", late, err)
	}
}

// TestListExtremes: jobs of PostgreSQL's first and last years are listed in order on pages of one, shown and
// filtered, and what is noted of a row may be of any time, too.
func TestListExtremes(t *testing.T) {
	b := newBench(t)
	b.exec(`SET TimeZone = 'UTC';
		INSERT INTO jobs (topic, fire_at, expires_at) VALUES
		('last',      '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999'),
		('first',     '4714-11-24 00:00:00 BC',       NULL),
		('1',         '0001-01-01 BC',                NULL),
		('beyond',    '294276-01-01',                 NULL),
		('last that fits', '294247-01-10 04:00:54.775807', NULL),
		('first that does not', '294247-01-10 04:00:54.775808', NULL),
		('last too',  '294276-12-31 23:59:59.999999', NULL)`)
	b.exec("INSERT INTO jobs (topic, fire_at, processed, processed_at) VALUES ('by hand', '2000-01-01', true, '-infinity'), ('by hand too', '2001-01-01', true, 'infinity')")
	want := []string{"first", "1", "by hand", "by hand too", "last that fits", "first that does not", "beyond", "last", "last too"}
	for _, latest := range []bool{false, true} {
		var got []string
		for page := (pgsource.JobPage{Limit: 1, Latest: latest}); ; {
			list, next := b.list(pgsource.JobFilter{}, page)
			for _, j := range list {
				got = append(got, j.Topic)
				if d := b.detail(j.ID); !d.FireTime().Equal(j.FireTime()) || len(d.History) == 0 {
					t.Errorf("%q fires at %v in the list, at %v alone", j.Topic, j.FireTime(), d.FireTime())
				}
			}
			if next == nil || len(got) > len(want) {
				break
			}
			cursor, err := pgsource.ParseJobCursor(next.String()) // as an operator passes it on
			if err != nil {
				t.Fatal(err)
			}
			page.After = &cursor
		}
		if latest {
			slices.Reverse(got)
		}
		if !slices.Equal(got, want) {
			t.Errorf("latest first: %v: listed %q, want %q", latest, got, want)
		}
	}
	if at := b.detail(1).FireTime(); at.Year() != 294276 || at.Nanosecond() != 999_999_000 {
		t.Errorf("the last job fires at %v", at)
	}
	bound := func(at driver.DBTime) *driver.DBTime { return &at }
	for _, c := range []struct {
		filter pgsource.JobFilter
		want   int
	}{
		{pgsource.JobFilter{From: bound(math.MaxInt64)}, 5},
		{pgsource.JobFilter{Until: bound(math.MaxInt64)}, 4},
		{pgsource.JobFilter{From: bound(math.MinInt64)}, 9},
		{pgsource.JobFilter{Until: bound(math.MinInt64)}, 0},
	} {
		if list, _ := b.list(c.filter, pgsource.JobPage{}); len(list) != c.want {
			t.Errorf("%+v: %d jobs, want %d", c.filter, len(list), c.want)
		}
	}
	for _, text := range []string{"", "1", "1:", ":1", "9223372036854775807+0:1", "1+1:1", "9223372036854775807+945979145224193:1", "9223372036854775807+x:1", "+1:1"} {
		if cursor, err := pgsource.ParseJobCursor(text); err == nil {
			t.Errorf("%q is taken for a place: %v", text, cursor)
		}
	}
}
