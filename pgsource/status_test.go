package pgsource_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// status reads the status of the bench's deployment.
func (b *bench) status() (s pgsource.Status) {
	b.t.Helper()
	if err := pgsource.WithJobs(b.ctx, b.url, false, func(a *pgsource.JobsAdmin) (err error) {
		s, err = a.Status(b.ctx)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// TestStatus: what instances say of themselves, and what the tables say, with partitions and without.
func TestStatus(t *testing.T) {
	for name, partitions := range map[string]bool{"plain": false, "partitions": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testStatus(t, partitions)
		})
	}
}

func testStatus(t *testing.T, partitions bool) {
	b := examine(t, testkit.NewDatabase(t))
	if s := b.status(); len(s.Instances) != 0 || s.Unowned != driver.Shards || s.Backlog != (pgsource.Backlog{}) || s.SchemaVersion != 7 || s.Deployment == "" {
		t.Errorf("of a new deployment: %+v", s)
	}
	if partitions {
		if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "one", Version: "v1.2.3", RetryAttempts: 2, RetryBackoff: time.Hour})
	b.member, b.lease = b.join(b.Source)
	said := driver.Snapshot{
		Ready: true, Problems: []string{"a \"problem\" with ä and \\"}, Published: 1, Failed: 2, Pending: 3, InFlight: 4, Shards: 64, Lanes: 6, LanesUp: 5,
		OldestDue: 7 * time.Second, Recent: driver.Recent{Window: time.Minute, Jobs: 8, P50: 9 * time.Microsecond, P99: 10 * time.Millisecond, Max: 11 * time.Second},
	}
	b.member.Report(said)
	beat(t, b.ctx, b.member)
	static, err := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "two"}).Join(b.ctx, driver.JoinOptions{Static: 0b11})
	if err != nil {
		t.Fatal(err)
	}
	defer static.Leave(b.ctx)

	due, soon, later := b.insert(6, "-2 minutes"), b.insert(3, "30 seconds"), b.insert(2, "2 minutes")
	b.exec("UPDATE jobs SET topic = 'next' WHERE id = $1", soon[0])
	flight := b.claim(due[:1])
	b.refuse(b.claim(due[1:2])) // it waits for its second attempt
	b.exec("INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, row_version) SELECT id, 0, 0, 'a trigger', xmin::text::bigint FROM jobs WHERE id = $1", due[2])
	b.exec("UPDATE jobs SET processed = true, claim = gen_random_uuid() WHERE id = $1", due[3])
	b.exec("INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 5, 135, 'no', claim FROM jobs WHERE id = $1", due[3])
	b.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES (77, NULL, 1)")

	s := b.status()
	if want := (pgsource.Backlog{Due: 3, Soon: 3, Firing: 1, Retrying: 1, Blocked: 1, Failed: 1, Oldest: s.Backlog.Oldest}); s.Backlog != want {
		t.Errorf("the backlog is %+v, want %+v", s.Backlog, want)
	}
	if s.Backlog.Oldest < 2*time.Minute-time.Second || s.Backlog.Oldest > 4*time.Minute {
		t.Errorf("the oldest is due for %v", s.Backlog.Oldest)
	}
	if len(s.Next) != 5 || s.Next[0].ID != soon[0] || s.Next[0].Topic != "next" || s.Next[4].ID != later[1] {
		t.Errorf("next are %+v", s.Next)
	}
	if len(s.Instances) != 2 || s.Unowned != 0 {
		t.Fatalf("%+v", s)
	}
	one, two := s.Instances[0], s.Instances[1]
	if len(s.Owners) != driver.Shards || s.Owners[0] != one.ID || s.Owners[63] != one.ID {
		t.Errorf("the owners are %v, want %d", s.Owners, one.ID)
	}
	if one.Name != "one" || one.Version != "v1.2.3" || one.Protocols != driver.OurProtocols || !one.Dynamic || one.Silent || one.Shards != 64 || one.Lanes != 1 || one.Beat > time.Minute || s.At.Sub(one.Started) > time.Minute {
		t.Errorf("%+v", one)
	}
	if one.Snapshot == nil || !reflect.DeepEqual(*one.Snapshot, said) {
		t.Errorf("it says %+v, and is shown as %+v", said, one.Snapshot)
	}
	if two.Dynamic || two.Snapshot != nil || two.Version != "" {
		t.Errorf("one that has not sent a heartbeat: %+v", two)
	}
	if n := len(s.Lanes); n != 2 || s.Lanes[0].Instance != "one" || s.Lanes[0].InFlight != 1 || s.Lanes[1] != (pgsource.LaneStatus{Lane: 77}) {
		t.Errorf("the lanes are %+v", s.Lanes)
	}
	b.published(flight)
	b.exec("UPDATE reactor.instances SET heartbeat_at = now() - interval '4 seconds' WHERE name = 'two'")
	if s := b.status(); !s.Instances[1].Silent || s.Backlog.Firing != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStatusCountsUpToABound: of a large backlog no more is read than is shown.
func TestStatusCountsUpToABound(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.insert(pgsource.MostCounted+500, "-1 hour")
	b.exec("INSERT INTO jobs (topic, fire_at) VALUES ('t', '4713-01-01 BC'), ('t', '294276-12-31')")
	s := b.status()
	if s.Backlog.Due != pgsource.MostCounted+1 || s.Backlog.Oldest < 292*365*24*time.Hour {
		t.Errorf("%+v", s.Backlog)
	}
	if len(s.Next) != 1 || s.Next[0].FireAt != math.MaxInt64 {
		t.Errorf("%+v", s.Next)
	}
}

// TestSnapshotNeverFailsTheHeartbeat: whatever is in it, and however much, it is stored, can be read as JSON, and the
// heartbeat stays a HOT update, which needs no vacuum.
func TestSnapshotNeverFailsTheHeartbeat(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Version: strings.Repeat("\x00v", 1000)})
	b.member, b.lease = b.join(b.Source)
	problems := []string{"", "\x00\xff\xfe\u2028\x1b[31m\"\\", strings.Repeat("日", 1000), strings.Repeat("\"", 1000), "too many"}
	history := driver.History{Until: math.MaxInt64, Slice: math.MaxInt64}
	for i := range driver.HistorySlices {
		history.Slices = append(history.Slices, driver.Slice{Jobs: math.MaxInt64 - int64(i), P50: math.MaxInt64, Max: math.MinInt64})
	}
	b.member.Report(driver.Snapshot{Problems: problems, Published: math.MaxInt64, OldestDue: math.MaxInt64, Recent: driver.Recent{Max: math.MinInt64}, History: history})
	beat(t, b.ctx, b.member)
	if n := b.count("SELECT length(snapshot::text) FROM reactor.instances WHERE to_jsonb(instances) IS NOT NULL"); n > 1400 {
		t.Errorf("the snapshot has %d bytes", n)
	}
	s := b.status().Instances[0]
	if n := s.Snapshot; n == nil || len(n.Problems) != 4 || n.Problems[1] != "?\ufffd\ufffd??[31m\"\\" || n.Published != math.MaxInt64 {
		t.Errorf("%+v", n)
	}
	if len(s.Version) > 64 {
		t.Errorf("the version is %q", s.Version)
	}
	// b.eventually beats.
	b.eventually("a hundred heartbeats", "SELECT n_tup_upd >= 100 FROM pg_stat_user_tables WHERE relid = 'reactor.instances'::regclass")
	// A page that is full of versions that somebody still sees takes no more of them.
	if n := b.count("SELECT 100 * n_tup_hot_upd / n_tup_upd FROM pg_stat_user_tables WHERE relid = 'reactor.instances'::regclass"); n < 50 {
		t.Errorf("only %d %% of the heartbeats were HOT updates", n)
	}
}

// TestStrangeSnapshot: what another version or a person has written there is no error.
func TestStrangeSnapshot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for text, known := range map[string]bool{`{"published": 5, "new in a later version": [1]}`: true, `[]`: false, `{"published": "five"}`: false, `null`: false, `{}`: true} {
		b.exec("UPDATE reactor.instances SET snapshot = $1::text::json", text)
		if s := b.status().Instances[0].Snapshot; known != (s != nil) {
			t.Errorf("%s is read as %+v", text, s)
		}
	}
}

// TestVersionSixBesideSeven: instances of version 6 run on while version 7 is applied and undone, as those of version 7
// do on a schema of version 6, with all but their snapshots. Undoing it waits for no instance of version 6.
func TestVersionSixBesideSeven(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE TABLE columns AS " + instanceColumns)
	b.migrateDownTo(6)
	same := "SELECT count(*) FROM (SELECT * FROM columns EXCEPT (" + instanceColumns + ")) AS gone"
	if n := b.count(same); n != 4 {
		t.Errorf("version 6 lacks %d columns, want 4", n)
	}
	// Of this program, on version 6.
	b.start(b.url)
	b.member.Report(driver.Snapshot{Ready: true})
	beat(t, b.ctx, b.member)
	b.published(b.claim(b.insert(3, "0")))
	if s := b.status(); s.SchemaVersion != 6 || len(s.Instances) != 1 || s.Instances[0].Snapshot != nil || s.Instances[0].Protocols != (driver.Protocols{Oldest: 1, Newest: 1}) {
		t.Errorf("%+v", s)
	}
	// It goes on when the schema becomes version 7, beside an instance of the program before, which beats by its own statement.
	b.exec("INSERT INTO reactor.instances (id, name, backends, dynamic, feed, shard_hints, schema_version) VALUES (7, 'old', 'old', true, 'notify', true, 6)")
	old := func() {
		b.exec("UPDATE reactor.instances SET heartbeat_at = clock_timestamp(), feed = 'notify' WHERE id = 7")
		b.exec("UPDATE reactor.instances SET name = name WHERE id = 7 AND heartbeat_at > now() - interval '1 minute'")
	}
	old()
	if names := b.migrateUp(b.url); len(names) != 1 || names[0] != "observed" {
		t.Errorf("applied %v", names)
	}
	old()
	if h := beat(t, b.ctx, b.member); h.Shards.Len() != 32 {
		t.Errorf("it owns %d shards beside the old one", h.Shards.Len())
	}
	// It knows version 7, and so keeps it from being undone; the old one does not.
	if _, err := pgsource.PlanDown(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), "instances are running") {
		t.Errorf("to undo it: %v", err)
	}
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	second, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "new"}))
	second.Report(driver.Snapshot{Ready: true})
	beat(t, b.ctx, second)
	if s := b.status(); len(s.Instances) != 2 || s.Instances[0].Snapshot == nil || s.Instances[1].Snapshot != nil {
		t.Errorf("%+v", s.Instances)
	}
	if err := second.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	old()
	plan, err := pgsource.PlanDown(b.ctx, b.url)
	if err != nil || plan.Version != 7 || plan.Loses != "" {
		t.Fatalf("%+v, %v", plan, err)
	}
	if _, err := pgsource.MigrateDown(b.ctx, b.url, plan); err != nil {
		t.Fatal(err)
	}
	old()
	if _, err := pgsource.PlanDown(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), "instances are running (old)") {
		t.Errorf("to undo version 6: %v", err)
	}
	b.migrateUp(b.url)
	if n := b.count(same); n != 0 {
		t.Errorf("version 7 lacks %d columns", n)
	}
}

// instanceColumns lists the columns of reactor.instances.
const instanceColumns = "SELECT attname::text, format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = 'reactor.instances'::regclass AND attnum > 0 AND NOT attisdropped"

// TestSchemaByHandIsTheSame: sql/schema.sql alone makes the columns of version 7 as well.
func TestSchemaByHandIsTheSame(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	if n := b.count(fmt.Sprintf("SELECT count(*) FROM (%s) AS c WHERE attname IN ('version', 'protocol', 'protocol_oldest', 'snapshot')", instanceColumns)); n != 4 {
		t.Errorf("%d of 4 columns", n)
	}
}
