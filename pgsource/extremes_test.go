package pgsource_test

import (
	"math"
	"testing"
	"time"

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
