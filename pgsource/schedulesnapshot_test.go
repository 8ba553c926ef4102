package pgsource

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSchedulesUnderOldSnapshot: while somebody holds an old snapshot, every version of a schedule stays in
// the table and its indexes. What a look reads does not grow with them, whether something is due or not.
//
// What it writes does: PostgreSQL looks at all versions of a row when it updates it, because of the unique
// indexes (docs/schedules.md).
func TestSchedulesUnderOldSnapshot(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	database := testkit.NewDatabase(t)
	s, err := New(Config{DatabaseURL: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	// Nobody makes occurrences beside this test: there is no member.
	b := &snapshotBench{Source: s, t: t, ctx: ctx, conn: login(t, ctx, database, "")}
	const schedules = 20
	b.exec("ALTER TABLE reactor.schedules SET (autovacuum_enabled = false)")
	b.exec("INSERT INTO reactor.schedules (name, every, topic) SELECT n::text, '1 s', 't' FROM generate_series(1, $1::integer) AS n", schedules)
	b.hold(login(t, ctx, database, ""))

	// tick has all schedules be looked at every ten seconds, up to a time.
	tick := func(looks int, until driver.DBTime) {
		t.Helper()
		for i := range looks {
			b.exec("UPDATE reactor.schedules SET look_at = $1, step = step + 1", dbTime{until.Add(-10 * time.Second * time.Duration(looks-1-i))})
		}
	}
	reads := func(now driver.DBTime) map[string]int64 {
		t.Helper()
		var from lookFrom
		from.saw(now, now)
		if at := from.at(); at != now.Add(-lookMargin) {
			t.Fatalf("the next look begins at %v", at)
		}
		rows, err := b.conn.Query(ctx, "SELECT ctid::text FROM reactor.schedules ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		places, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(places) != schedules {
			t.Fatal(places, err)
		}
		b.exec("SELECT pg_stat_force_next_flush()") // what this has read is to be counted before
		times := make([]time.Time, schedules)
		for i := range times {
			times[i] = now.Time()
		}
		counts := map[string]int64{}
		for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
			add := func(name, sql string, args ...any) { counts[name+", "+mode] = b.pages(mode, "", sql, args...) }
			add("look", untilLookSQL, dbTime{from.at()})
			add("lock changed ones", lockChangedSQL, schedulesAtOnce)
			add("lock due ones", lockDueSQL, schedulesAtOnce, dbTime{from.at()})
			add("read", "SELECT "+scheduleColumns+" FROM reactor.schedules WHERE ctid = ANY ($1::text[]::tid[]) ORDER BY look_at", places)
			add("make jobs", makeJobsSQL, places, times, times)
		}
		return counts
	}
	search := func() int64 { return b.pages("auto", "", untilLookSQL, dbTime{driver.DistantPast}) }

	var now dbTime
	if err := b.conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now); err != nil {
		t.Fatal(err)
	}
	earlier := now.Add(-24 * time.Hour)
	tick(40, earlier)
	before, searched := reads(earlier), search()
	tick(400, now.DBTime)
	after := reads(now.DBTime)
	if n := search(); n < 4*searched {
		t.Errorf("a search from the beginning reads %d pages, and then %d: nothing was kept for the snapshot", searched, n)
	}
	compare := func(what string, after map[string]int64) {
		t.Helper()
		for _, name := range slices.Sorted(maps.Keys(before)) {
			was, is := before[name], after[name]
			t.Logf("%-40s %4d pages, %s %4d", name, was, what, is)
			// A search of an index that has grown by a level reads a page more.
			if is > was+was/2+12 {
				t.Errorf("%s reads %d pages, and %s %d", name, was, what, is)
			}
		}
	}
	compare("with ten times as many versions", after)
	b.exec("ANALYZE reactor.schedules")
	compare("analyzed", reads(now.DBTime))
}

// TestLooksFindWhatComesBefore: a look that does not begin at the beginning finds schedules that are new, or
// were changed, and those that another instance has put to a time a moment ago; and what it cannot find
// there, as after a clock was set back, is found by the next search.
func TestLooksFindWhatComesBefore(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	database := testkit.NewDatabase(t)
	s, err := New(Config{DatabaseURL: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	b := &snapshotBench{Source: s, t: t, ctx: ctx, conn: login(t, ctx, database, "")}
	var from lookFrom
	due := func() bool {
		t.Helper()
		wait, err := s.untilLook(ctx, &from)
		if err != nil {
			t.Fatal(err)
		}
		return wait == 0
	}
	making := func() bool {
		t.Helper()
		was := b.count("SELECT sum(step)::bigint FROM reactor.schedules")
		if _, err := s.makeOccurrences(ctx, from.at()); err != nil {
			t.Fatal(err)
		}
		return b.count("SELECT sum(step)::bigint FROM reactor.schedules") > was
	}
	if due() {
		t.Error("something is due where there are no schedules")
	}
	b.exec("INSERT INTO reactor.schedules (name, cron, topic) VALUES ('far', '0 0 1 1 *', 't'), ('near', '* * * * *', 't')")
	if !due() || !making() {
		t.Error("a new schedule is not found")
	}
	if due() || making() {
		t.Error("what was looked at is due again")
	}
	b.exec("UPDATE reactor.schedules SET payload = 'changed' WHERE name = 'far'")
	if !due() || !making() || due() {
		t.Error("a changed schedule is not found")
	}
	b.exec("UPDATE reactor.schedules SET look_at = clock_timestamp() - interval '50 s', step = step + 1 WHERE name = 'near'")
	if !due() || !making() || due() {
		t.Error("a schedule that another instance has put to a moment ago is not found")
	}
	// Far behind, with all others far ahead: by a search only.
	b.exec("UPDATE reactor.schedules SET look_at = clock_timestamp() - interval '1 hour', step = step + 1 WHERE name = 'near'")
	if due() || making() {
		t.Error("the looks begin at the beginning")
	}
	from.searched = from.searched.Add(-searchInterval)
	if !due() || !making() || due() {
		t.Error("the search does not find it")
	}
	b.exec("UPDATE reactor.schedules SET paused = true")
	if due() || making() {
		t.Error("paused schedules are due")
	}
	b.exec("UPDATE reactor.schedules SET paused = false WHERE name = 'near'")
	if !due() || !making() || due() {
		t.Error("a schedule whose pause has ended is not found")
	}
}
