package pgsource

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestFailoverBetweenFeeds: a failover that is seen while no feed runs is told when the next one begins, whether
// that stands or not, and once. The lanes claim nothing before.
func TestFailoverBetweenFeeds(t *testing.T) {
	t.Parallel()
	s, err := New(Config{DatabaseURL: "postgres://127.0.0.1:1/app", Feed: FeedNotify})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	on := func(h driver.Hint) {
		if h.Kind == driver.HintFailover {
			told++
		}
	}
	for i, timeline := range []uint32{1, 2, 2, 3} {
		if _, _, _, err := s.timelines.see(place{timeline: timeline}); err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(t.Context(), on); err == nil {
			t.Fatal("there is no server, and the feed ends without an error")
		}
		if want := []int{0, 1, 1, 2}[i]; told != want {
			t.Errorf("step %d: told %d times, want %d", i, told, want)
		}
	}
}

// TestTimelines: a later place is a move, an earlier one is refused, and an unknown one changes nothing.
func TestTimelines(t *testing.T) {
	var seen timelines
	cluster, later := uint64(0x6000_0000_0000_0001), uint64(0x9000_0000_0000_0000) // the upper half of the numbers is used up in 2038
	for i, step := range []struct {
		at      place
		want    move
		refused string
	}{
		{at: place{}},
		{at: place{timeline: 3}},
		{at: place{timeline: 3, database: 5, started: 30}},
		{at: place{}},
		{at: place{timeline: 5, database: 5, started: 50}, want: promoted},
		{at: place{timeline: 3, database: 5, started: 30}, want: formerPrimary, refused: "(on timeline 3, the latest is 5)"},
		{at: place{timeline: 5, database: 5, started: 51}, want: restarted},
		{at: place{timeline: 5, database: 5, started: 50}, want: restarted, refused: "is a second primary on timeline 5"},
		{at: place{system: cluster, timeline: 5, database: 5, started: 51}},
		{at: place{timeline: 5, started: 51}},
		{at: place{system: cluster, timeline: 6, database: 5, started: 60}, want: promoted},
		{at: place{system: later, timeline: 1, database: 5, started: 10}, want: otherDatabase},
		{at: place{system: cluster, timeline: 7, database: 5, started: 70}, want: earlierCluster, refused: "belongs to an earlier cluster"},
		{at: place{system: later, timeline: 1, database: 5, started: 10}},
		{at: place{system: later, timeline: 1, database: 6, started: 10}, want: otherDatabase},
	} {
		what, _, _, err := seen.see(step.at)
		former, why := new(formerServerError), ""
		if errors.As(err, &former) {
			why = former.briefly()
		}
		if what != step.want || (why != "") != (step.refused != "") || !strings.Contains(why, step.refused) {
			t.Errorf("step %d, %+v: %d, %v", i, step.at, what, err)
		}
	}
	if latest, failovers := seen.state(); latest != 1 || failovers != 4 || seen.now() != 5 {
		t.Errorf("on timeline %d after %d failovers, in era %d", latest, failovers, seen.now())
	}
	if !seen.untold() || seen.untold() {
		t.Error("the lanes are not told once of what they were not told")
	}
	if err := seen.journalRead(1, 4); err == nil {
		t.Error("a journal that was read at a server that was left counts")
	}
	if err := seen.journalRead(2, 5); !errors.Is(err, driver.ErrLeaseLost) || seen.mayClaim(2, 5) {
		t.Errorf("a lane claims from a database that was not checked: %v", err)
	}
	if seen.checked(4); !seen.elsewhere() {
		t.Error("what was checked was another database")
	}
	if seen.checked(5); seen.journalRead(2, 5) != nil || seen.mayClaim(1, 5) || !seen.mayClaim(2, 5) || seen.mayClaim(2, 4) || seen.mayClaim(3, 5) {
		t.Error("a lane may claim whose journal was not read, or over a connection from before, or another may not")
	}
	for file, want := range map[string]uint32{"0000000A000000010000004F": 10, "000000010000000000000001": 1, "": 0, "0000": 0, "no timeline": 0} {
		if got := parseTimeline(file); got != want {
			t.Errorf("%q is of timeline %d, not %d", file, got, want)
		}
	}
}

// TestServersThatTellLess: what a role may not ask for is not asked for again, as long as the server is the same, and what stands behind it is
// still found out.
func TestServersThatTellLess(t *testing.T) {
	t.Parallel()
	const walFile, control = " EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) ", " EXECUTE ON FUNCTION pg_control_system() "
	database := testkit.NewDatabase(t)
	admin, err := pgconn.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	run := func(sql string) {
		t.Helper()
		if err := admin.Exec(context.Background(), sql).Close(); err != nil {
			t.Fatal(err)
		}
	}
	run("CREATE ROLE tells_less LOGIN")
	defer run("DROP ROLE tells_less")
	at, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	query := at.Query()
	query.Set("user", "tells_less")
	at.RawQuery = query.Encode()
	conn, err := pgconn.Connect(t.Context(), at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, step := range []struct {
		change           string
		timeline, system bool // are told
	}{
		{"", true, true},
		{"REVOKE" + walFile + "FROM PUBLIC", false, true},
		{"REVOKE" + control + "FROM PUBLIC", false, false},
		{"GRANT" + walFile + "TO PUBLIC", true, false},
		{"GRANT" + control + "TO PUBLIC", true, true},
	} {
		run(step.change)
		var seen timelines
		seen.quiet = silence{started: 1, system: true, timeline: true} // another server
		for range 2 {
			if is, err := seen.look(t.Context(), conn); err != nil || is != (standing{}) {
				t.Fatalf("%q: %+v, %v", step.change, is, err)
			}
			_, at, _, err := seen.arrive(conn)
			if err != nil || (at.timeline != 0) != step.timeline || (at.system != 0) != step.system || at.started == 0 || at.database == 0 || at.folder != at.database {
				t.Errorf("after %q: %+v, %v", step.change, at, err)
			}
			if want := (silence{at.started, !step.system, !step.timeline}); seen.quiet != want {
				t.Errorf("after %q it is known to tell %+v, not %+v", step.change, seen.quiet, want)
			}
		}
	}
	run("ALTER ROLE tells_less SET default_transaction_read_only = on")
	if conn, err = pgconn.Connect(t.Context(), at.String()); err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if is, err := new(timelines).look(t.Context(), conn); err != nil || is != (standing{readOnly: true}) {
		t.Errorf("a read-only server: %+v, %v", is, err)
	}
}

// TestOnlyWhatIsUsedMoves: a server that was looked at and not used is no later place.
func TestOnlyWhatIsUsedMoves(t *testing.T) {
	t.Parallel()
	database := testkit.NewDatabase(t)
	conn, err := pgconn.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var seen timelines
	before := place{system: 1, timeline: 1, database: 2, started: 3}
	if _, _, _, err := seen.see(before); err != nil {
		t.Fatal(err)
	}
	if _, err := seen.look(t.Context(), conn); err != nil || seen.where() != before || seen.now() != 0 {
		t.Errorf("after a look at %+v: %v", seen.where(), err)
	}
	if what, _, _, err := seen.arrive(conn); err != nil || what != otherDatabase || seen.now() != 1 || eraOf(conn) != 1 {
		t.Errorf("arriving is move %d: %v", what, err)
	}
	seen.latest.system++
	if _, err := seen.look(t.Context(), conn); !errors.As(err, new(*formerServerError)) {
		t.Errorf("at a former server: %v", err)
	}
}

// TestLateNoticeOfAnotherServer: a statement that was made for a server which was left since says nothing of the connections to the
// present one.
func TestLateNoticeOfAnotherServer(t *testing.T) {
	resets := 0
	var seen timelines
	guard := serverGuard{&seen, func() { resets++ }}
	one, two := place{timeline: 1, database: 16384, started: 10}, place{timeline: 2, database: 1638, started: 20}
	met := func(at place) error {
		return guard.notice(&pgconn.PgError{Severity: "ERROR", Code: pgerrcode.UndefinedObject, Message: `unrecognized configuration parameter "` + expecting(at) + `"`})
	}
	for i, step := range []struct {
		at, made place
		resets   int
	}{{one, one, 1}, {two, one, 1}, {two, two, 2}, {two, place{timeline: 2, database: 16384, started: 20}, 2}} {
		if _, _, _, err := seen.see(step.at); err != nil {
			t.Fatal(err)
		}
		if err := met(step.made); !errors.As(err, new(*notSentError)) || resets != step.resets {
			t.Errorf("step %d: %d resets, %v", i, resets, err)
		}
	}
}
