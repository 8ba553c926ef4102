package pgsource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// Obstacles for the WAL feed. If it is configured, reactor refuses to start, in one line with the
// remedy; if the feed is chosen by what the deployment provides, it starts all the same.

// ownBench is a bench on a server of its own, with settings.
func ownBench(t *testing.T, settings map[string]string) *bench {
	t.Helper()
	b := examine(t, testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: settings}).URL())
	b.migrateUp(b.url)
	return b
}

// wal returns the configuration of an instance with FeedWAL that probes its feed often; not so
// often that a busy machine looks like a dead connection.
func wal(url string) pgsource.Config {
	return pgsource.Config{DatabaseURL: url, Feed: pgsource.FeedWAL, MaxConns: 2, FeedCheck: 500 * time.Millisecond}
}

// refusesWAL expects exactly this refusal with FeedWAL. With FeedAuto, and without triggers, the
// instance listens to notifications.
func (b *bench) refusesWAL(url, want string) {
	b.t.Helper()
	if why := b.refused(wal(url)); why != "pgsource.Config.Feed is FeedWAL: "+want {
		b.t.Errorf("it refuses with\n%s, want\npgsource.Config.Feed is FeedWAL: %s", why, want)
	}
	b.exec(schema.TriggersDown)
	s := open(b.t, b.ctx, pgsource.Config{DatabaseURL: url, MaxConns: 2})
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	listen(b.t, ctx, s)
	if state := s.FeedState(); state.Kind != "notify" {
		b.t.Errorf("without triggers and WAL the feed is %+v", state)
	}
}

// readsWAL starts to read the WAL, as the bench's source.
func (b *bench) readsWAL(cfg pgsource.Config) (<-chan driver.Hint, <-chan error) {
	b.t.Helper()
	b.Source = open(b.t, b.ctx, cfg)
	hints, ended := listen(b.t, b.ctx, b.Source)
	if state := b.FeedState(); state.Kind != "wal" {
		b.t.Fatalf("the feed is %+v", state)
	}
	return hints, ended
}

// announced waits for the hint of a job.
func (b *bench) announced(hints <-chan driver.Hint, id int64) {
	b.t.Helper()
	for {
		select {
		case h := <-hints:
			if h.Kind == driver.HintJobs && h.MinID <= id && id <= h.MaxID {
				return
			}
		case <-b.ctx.Done():
			b.t.Fatalf("the job %d is not announced", id)
		}
	}
}

// announces inserts a job into a table and expects an announcement if it is due soon; then it
// changes the job to be due now.
func (b *bench) announces(hints <-chan driver.Hint, table string, id int64, fireAt string) {
	b.t.Helper()
	b.exec("INSERT INTO "+table+" (id, topic, fire_at) VALUES ($1, 't', $2::timestamptz)", id, fireAt)
	if b.count("SELECT (fire_at < now() + interval '1 minute')::int FROM jobs WHERE id = $1", id) == 1 {
		b.announced(hints, id)
	}
	b.exec("UPDATE jobs SET topic = 'changed' WHERE id = $1", id)
	b.exec("UPDATE jobs SET fire_at = now() WHERE id = $1", id)
	b.announced(hints, id)
}

// ends waits for the end of a feed.
func (b *bench) ends(ended <-chan error) string {
	b.t.Helper()
	select {
	case err := <-ended:
		if err == nil || strings.Contains(err.Error(), "\n") {
			b.t.Fatalf("the feed ends with %v, want an error of one line", err)
		}
		return err.Error()
	case <-b.ctx.Done():
		b.t.Fatal("the feed does not end")
		return ""
	}
}

// failsToListen returns why a feed does not start.
func (b *bench) failsToListen(s *pgsource.Source) string {
	b.t.Helper()
	ended := make(chan error, 1)
	ended <- s.Listen(b.ctx, func(h driver.Hint) { b.t.Errorf("a feed that should not begin says %+v", h) })
	return b.ends(ended)
}

// publishes runs the text that publishes the table, as its owner would with psql.
func (b *bench) publishes() {
	b.t.Helper()
	b.exec(schema.PublicationsUp)
	b.exec("RESET search_path")
}

const (
	tooFewSlots = "all 1 replication slots of the server are in use, and each instance needs one: raise max_replication_slots and restart the server, " +
		"or drop slots that nobody uses (SELECT * FROM pg_replication_slots)"
	notPublished  = "the table \"public\".\"jobs\" is not published, and this role may not do that: run `reactor migrate feed wal` as the owner of the database and the table"
	unpublished   = "WAL feed: the table is not in its publications any more"
	tooFewSenders = "all WAL senders of the server are in use, and each instance needs one: raise max_wal_senders, and restart the server"
)

func TestWALLevel(t *testing.T) {
	t.Parallel()
	b := ownBench(t, map[string]string{"wal_level": "replica"})
	b.refusesWAL(b.url, "wal_level is replica: run ALTER SYSTEM SET wal_level = logical as a superuser, and restart the server")
}

// TestAnyStandby: a server that counts every client of its log as a synchronous standby would count
// our feed as one, and confirm commits that no standby has.
func TestAnyStandby(t *testing.T) {
	t.Parallel()
	b := ownBench(t, nil)
	_, ended := b.readsWAL(wal(b.url))
	b.exec("SET synchronous_commit = local") // or we would wait for it
	b.exec("ALTER SYSTEM SET synchronous_standby_names = '*'")
	b.exec("SELECT pg_reload_conf()")
	const want = `synchronous_standby_names is "*", so that the server would take our feed for a standby: commits would be confirmed that no standby has, and wait for us: name the standbys there`
	if why := b.ends(ended); why != "WAL feed: "+want {
		t.Error(why)
	}
	if why := b.refused(wal(b.url)); why != "pgsource.Config.Feed is FeedWAL: "+want {
		t.Error(why)
	}
	if err := (pgsource.FeedSwitch{DatabaseURL: b.url, To: pgsource.FeedWAL}).Run(b.ctx); err == nil || err.Error() != want {
		t.Errorf("changing over: %v", err)
	}
	b.exec("ALTER SYSTEM RESET synchronous_standby_names")
	b.exec("SELECT pg_reload_conf()")
}

func TestNoRightToReplicate(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.publishes()
	b.exec(schema.PublicationsDown)
	b.refusesWAL(url, `role "`+role+`" may not replicate: run ALTER ROLE … REPLICATION as a superuser (managed services: GRANT rds_replication TO …, or as theirs is called)`)
	b.publishes()
	b.exec("ALTER ROLE " + role + " REPLICATION")
	hints, _ := b.readsWAL(wal(url))
	b.announces(hints, "jobs", 1, "now")

	// A similar error with another cause: the role of the other URL may not connect.
	other, otherURL := b.role("REPLICATION")
	b.exec(`DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$`)
	cfg := wal(b.url)
	cfg.ListenURL = otherURL
	if why := b.refused(cfg); !strings.HasPrefix(why, "pgsource.Config.Feed is FeedWAL: ") || !strings.HasSuffix(why, "grant this role CONNECT on the database") {
		t.Errorf("%s: %s", other, why)
	}
}

func TestNoSlotIsFree(t *testing.T) {
	t.Parallel()
	b := ownBench(t, map[string]string{"max_replication_slots": "1"})
	b.exec("SELECT pg_create_physical_replication_slot('of_a_standby')")
	b.refusesWAL(b.url, tooFewSlots)
	b.exec("SELECT pg_drop_replication_slot('of_a_standby')")
	// Somebody takes the last one between our start and our feed's.
	s := open(t, b.ctx, wal(b.url))
	b.exec("SELECT pg_create_physical_replication_slot('of_a_standby')")
	if why := b.failsToListen(s); why != "WAL feed: "+strings.Replace(tooFewSlots, "all 1", "all", 1) {
		t.Error(why)
	}
	b.exec("SELECT pg_drop_replication_slot('of_a_standby')")
	b.readsWAL(wal(b.url))
	if why := b.refused(wal(b.url)); why != "pgsource.Config.Feed is FeedWAL: "+tooFewSlots {
		t.Errorf("a second instance refuses with %s", why)
	}
}

func TestNoSenderIsFree(t *testing.T) {
	t.Parallel()
	b := ownBench(t, map[string]string{"max_wal_senders": "1"})
	somebody, err := pgconn.Connect(b.ctx, with(t, b.url, "replication", "database"))
	if err != nil {
		t.Fatal(err)
	}
	b.refusesWAL(b.url, tooFewSenders)
	// Its place is free when the server has closed the connection.
	pid := somebody.PID()
	if err := somebody.Close(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.until(b.conn, "the end of the sender", "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
	// Neither the trial connection nor that of the previous feed keeps the WAL sender occupied.
	for range 20 {
		s := open(t, b.ctx, wal(b.url))
		for range 5 {
			ctx, cancel := context.WithCancel(b.ctx)
			if err := s.Listen(ctx, func(driver.Hint) { cancel() }); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancel()
		}
		s.Close()
	}
}

// TestNotPublished: a role that does not own the table cannot publish it. Its owner can, in either
// way.
func TestNotPublished(t *testing.T) {
	for name, publish := range map[string]func(*bench){
		"psql": (*bench).publishes,
		"migrate feed": func(b *bench) {
			if err := (pgsource.FeedSwitch{DatabaseURL: b.url, To: pgsource.FeedWAL}).Run(b.ctx); err != nil {
				b.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("REPLICATION")
			b.grant(role)
			b.refusesWAL(url, notPublished)
			// One of the two rights alone is not enough.
			b.exec("DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO " + role + "', current_database()); END $$")
			b.refusesWAL(url, notPublished)
			publish(b)
			hints, _ := b.readsWAL(wal(url))
			b.announces(hints, "jobs", 1, "now")
		})
	}
}

// TestHeirsInTheWAL: an inheritance child without a primary key is left out, because every UPDATE
// of it would fail.
func TestHeirsInTheWAL(t *testing.T) {
	b := inherited(t)
	hints, ended := b.readsWAL(wal(b.url))
	b.exec("INSERT INTO archive (id, topic, fire_at) VALUES (7, 't', now())")
	b.announces(hints, "jobs", 1, "now")
	b.exec("UPDATE jobs SET fire_at = fire_at") // those of the archive as well

	b.exec("ALTER TABLE public.archive ADD PRIMARY KEY (id)")
	if why := b.ends(ended); why != unpublished {
		t.Error(why)
	}
	hints, ended = listen(t, b.ctx, b.Source)
	b.announces(hints, "archive", 2, "now")
	// A child that is added while the feed is established.
	b.exec("CREATE TABLE another () INHERITS (archive)")
	b.announces(hints, "archive", 3, "now")
	b.exec("ALTER TABLE another ADD PRIMARY KEY (id)")
	if why := b.ends(ended); why != unpublished {
		t.Error(why)
	}
	hints, _ = listen(t, b.ctx, b.Source)
	b.announces(hints, "another", 4, "now")
	b.exec("UPDATE jobs SET fire_at = fire_at")
}

// TestIdentityChanges: the replica identity is changed while the feed runs, as another program that
// replicates may require. Every UPDATE fails until the feed has noticed.
func TestIdentityChanges(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		"ALTER TABLE jobs REPLICA IDENTITY FULL",
		"ALTER TABLE jobs ALTER topic SET NOT NULL; CREATE UNIQUE INDEX other ON jobs (id, topic); ALTER TABLE jobs REPLICA IDENTITY USING INDEX other",
		"ALTER PUBLICATION reactor_jobs_inserted SET TABLE jobs (id, fire_at, processed) WHERE (id > 1000)",
		"ALTER PUBLICATION reactor_jobs_updated SET (publish = 'insert')",
	} {
		t.Run(change, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			_, ended := b.readsWAL(wal(b.url))
			b.exec(change)
			if why := b.ends(ended); why != unpublished {
				t.Error(why)
			}
			hints, _ := listen(t, b.ctx, b.Source)
			b.announces(hints, "jobs", 1, "now")
		})
	}
}

// TestPartitionsInTheWAL: partitions are published as their root.
func TestPartitionsInTheWAL(t *testing.T) {
	b := partitioned(t)
	hints, ended := b.readsWAL(wal(b.url))
	if n := b.count("SELECT count(*) FROM pg_publication_tables WHERE tablename = 'jobs' AND pubname LIKE 'reactor_jobs_%'"); n != 2 {
		t.Errorf("the root is in %d of 2 publications", n)
	}
	if n := b.count("SELECT count(*) FROM pg_publication_tables"); n != 2 {
		t.Errorf("%d tables are published, want the root in two publications", n)
	}
	// A new fire_at moves a job to another partition, by a DELETE and an INSERT.
	b.announces(hints, "jobs", 1, "2025-06-01")
	b.announces(hints, "jobs", 2, "2050-01-01")
	b.announces(hints, "jobs", 3, "2200-01-01")
	b.announces(hints, "jobs_far", 4, "2200-01-01")
	// Partitions of partitions, and later partitions, need not be published separately.
	b.exec(`CREATE TABLE later (LIKE jobs INCLUDING ALL EXCLUDING IDENTITY) PARTITION BY RANGE (fire_at);
		CREATE TABLE later_yet PARTITION OF later FOR VALUES FROM ('2300-01-01') TO ('2400-01-01');
		DELETE FROM jobs WHERE fire_at >= '2100-01-01'; DROP TABLE jobs_far;
		ALTER TABLE jobs ATTACH PARTITION later FOR VALUES FROM ('2300-01-01') TO ('2400-01-01')`)
	b.announces(hints, "jobs", 5, "2350-01-01")
	select {
	case err := <-ended:
		t.Errorf("the feed ends: %v", err)
	default:
	}
	b.member, b.lease = b.join(b.Source)
	if batch := b.claim([]int64{1}); len(batch.Jobs) != 1 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestReplicaIdentities: all columns of the replica identity have to be published, or every UPDATE
// fails.
func TestReplicaIdentities(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"full":                         "ALTER TABLE jobs REPLICA IDENTITY FULL",
		"another index":                `CREATE UNIQUE INDEX "an index" ON jobs (topic, id); ALTER TABLE jobs REPLICA IDENTITY USING INDEX "an index"`,
		"a generated column":           "CREATE UNIQUE INDEX i ON jobs (shard, id); ALTER TABLE jobs REPLICA IDENTITY USING INDEX i",
		"a column with a strange name": `ALTER TABLE jobs ADD "my, column" int NOT NULL DEFAULT 1; CREATE UNIQUE INDEX i ON jobs ("my, column", id); ALTER TABLE jobs REPLICA IDENTITY USING INDEX i`,
	} {
		t.Run(name, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			b.exec(sql)
			hints, _ := b.readsWAL(wal(b.url))
			b.announces(hints, "jobs", 1, "now")
		})
	}
	for name, sql := range map[string]string{
		"full":               "ALTER TABLE jobs_now REPLICA IDENTITY FULL",
		"another index":      "CREATE UNIQUE INDEX i ON jobs_now (topic, id); ALTER TABLE jobs_now REPLICA IDENTITY USING INDEX i",
		"a generated column": "CREATE UNIQUE INDEX i ON jobs_now (shard, id); ALTER TABLE jobs_now REPLICA IDENTITY USING INDEX i",
	} {
		t.Run(name+" of a partition", func(t *testing.T) {
			b := partitioned(t)
			b.exec(sql)
			hints, _ := b.readsWAL(wal(b.url))
			b.announces(hints, "jobs", 1, "2050-01-01")
			b.announces(hints, "jobs", 2, "2200-01-01")
		})
	}
}

// TestTablesThatCannotBePublished: the error says what to do.
func TestTablesThatCannotBePublished(t *testing.T) {
	const noIdentity = `the table public.jobs has no replica identity: if it were published, every UPDATE of it would fail: `
	for name, c := range map[string]struct{ sql, want string }{
		"no identity":      {"ALTER TABLE jobs REPLICA IDENTITY NOTHING", noIdentity + "give it one: ALTER TABLE public.jobs REPLICA IDENTITY DEFAULT, or use the triggers (set pgsource.Config.Feed to FeedNotify)"},
		"an index dropped": {"CREATE UNIQUE INDEX i ON jobs (topic, id); ALTER TABLE jobs REPLICA IDENTITY USING INDEX i; DROP INDEX i", noIdentity + "give it one: ALTER TABLE public.jobs REPLICA IDENTITY DEFAULT, or use the triggers (set pgsource.Config.Feed to FeedNotify)"},
		"a key that is checked late": {
			"ALTER TABLE jobs DROP CONSTRAINT jobs_pkey; ALTER TABLE jobs ADD PRIMARY KEY (id) DEFERRABLE",
			noIdentity + "its primary key is DEFERRABLE: make that NOT DEFERRABLE, or use the triggers (set pgsource.Config.Feed to FeedNotify)",
		},
		"no key":   {"ALTER TABLE jobs DROP CONSTRAINT jobs_pkey", noIdentity + "give it a primary key: ALTER TABLE public.jobs ADD PRIMARY KEY (id), or use the triggers (set pgsource.Config.Feed to FeedNotify)"},
		"unlogged": {"ALTER TABLE jobs SET UNLOGGED", `cannot add relation "jobs" to publication: This operation is not supported for unlogged tables: put that right, or use the triggers (set pgsource.Config.Feed to FeedNotify)`},
	} {
		t.Run(name, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			b.exec(c.sql)
			b.refusesWAL(b.url, `the table "public"."jobs" cannot be published: `+c.want)
		})
	}
}

func TestFeedURLOfAStandby(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, ownServer)
	b := examine(t, primary.URL())
	b.migrateUp(b.url)
	cfg := wal(b.url)
	cfg.ListenURL = testkit.Standby(t, primary).URL()
	if why := b.refused(cfg); why != "pgsource.Config.Feed is FeedWAL: the server that pgsource.Config.ListenURL leads to is read-only (a standby, or default_transaction_read_only is on): give the address of the primary" {
		t.Error(why)
	}
	// Nor can one listen there.
	b.exec(schema.TriggersDown)
	cfg.Feed = pgsource.FeedAuto
	if why := b.failsToListen(open(t, b.ctx, cfg)); !strings.HasPrefix(why, "listen: the database is read-only") {
		t.Error(why)
	}
}

// TestWALBehindAPooler: PgBouncer 1.18 refuses replication, unless it is configured to ignore
// parameters that it does not know. Then it returns an ordinary session.
func TestWALBehindAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{stack.PoolSession, stack.PoolTransaction} {
		for says, lines := range map[string][]string{
			"unsupported startup parameter: replication": nil,
			"it gives us an ordinary session":            {"ignore_startup_parameters = replication"},
		} {
			t.Run(mode+", "+says, func(t *testing.T) {
				t.Parallel()
				b, pooler := pooled(t, stack.PgBouncerConfig{PoolMode: mode, ExtraLines: lines})
				b.migrateUp(b.url)
				b.exec(schema.TriggersDown)
				direct := wal(b.url)
				direct.ListenURL = pooler.URL()
				for _, cfg := range []pgsource.Config{direct, wal(pooler.URL())} {
					want := "the pooler in between does not carry replication (" + says + "): give the database's own address as pgsource.Config.ListenURL"
					if why := b.refused(cfg); why != "pgsource.Config.Feed is FeedWAL: "+want {
						t.Error(why)
					}
					cfg.Feed = pgsource.FeedAuto
					if why := b.failsToListen(open(t, b.ctx, cfg)); !strings.Contains(why, "give the database's own address as pgsource.Config.ListenURL") {
						t.Error(why)
					}
				}
				for _, feed := range []pgsource.Feed{pgsource.FeedWAL, pgsource.FeedAuto} {
					through := wal(pooler.URL())
					through.ListenURL, through.Feed = b.url, feed
					hints, _ := b.readsWAL(through)
					b.announces(hints, "jobs", int64(feed)+1, "now")
				}
			})
		}
	}
}

// TestSlotLeftBehind: if a connection ends without a message, the server keeps its slot for half a
// minute. The next feed does not wait for that.
func TestSlotLeftBehind(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	proxy := testkit.NewProxy(t, b.url)
	cfg := wal(b.url)
	cfg.ListenURL = proxy.Through(b.url)
	_, ended := b.readsWAL(cfg)
	if proxy.BlackHole() != 1 {
		t.Fatal("the feed has not one connection")
	}
	if why := b.ends(ended); !strings.HasPrefix(why, "WAL feed: ") {
		t.Error(why)
	}
	hints, _ := listen(t, b.ctx, b.Source)
	b.announces(hints, "jobs", 1, "now")
	if n := b.count("SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND active"); n != 2 {
		t.Errorf("there are %d slots, want the new one and the one left behind", n)
	}
}

// TestUnpublishedWhileRunning: the feed ends, and the next one publishes the table again.
func TestUnpublishedWhileRunning(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("REPLICATION")
	b.grant(role)
	id := int64(0)
	for _, sql := range []string{
		"DROP PUBLICATION reactor_jobs_inserted",
		"DROP PUBLICATION reactor_jobs_updated",
		"DROP PUBLICATION reactor_jobs_inserted, reactor_jobs_updated",
		"ALTER PUBLICATION reactor_jobs_inserted DROP TABLE jobs",
		"ALTER PUBLICATION reactor_jobs_updated DROP TABLE jobs",
		"ALTER PUBLICATION reactor_jobs_inserted SET (publish = 'update')",
		"ALTER PUBLICATION reactor_jobs_updated SET (publish_via_partition_root = false)",
	} {
		id++
		_, ended := b.readsWAL(wal(b.url))
		b.exec(sql)
		if why := b.ends(ended); !strings.HasPrefix(why, unpublished) {
			t.Errorf("%s: %s", sql, why)
		}
		hints, _ := listen(t, b.ctx, b.Source)
		b.announces(hints, "jobs", id, "now")
	}
	// An instance whose role may not publish the table reports that.
	_, ended := b.readsWAL(wal(url))
	b.exec(schema.PublicationsDown)
	if why := b.ends(ended); !strings.HasPrefix(why, unpublished) {
		t.Error(why)
	}
	if why := b.failsToListen(b.Source); why != "WAL feed: "+notPublished {
		t.Error(why)
	}
}

// TestUnpublishedInTheStream: a server before version 18 ends the stream at the next row. Later
// versions report nothing, and the probe ends the feed.
func TestUnpublishedInTheStream(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	cfg, want := wal(b.url), unpublished
	if b.count("SELECT current_setting('server_version_num')::int") < 180000 {
		cfg.FeedCheck = time.Hour
		want += ` (publication "reactor_jobs_inserted" does not exist): it is published again with the next try, if this role may`
	}
	_, ended := b.readsWAL(cfg)
	b.exec("DROP PUBLICATION reactor_jobs_inserted")
	b.exec("INSERT INTO jobs (topic, fire_at) VALUES ('t', now())")
	if why := b.ends(ended); !strings.HasPrefix(why, want) {
		t.Error(why)
	}
}

// TestPlantedPublications: functions that a producer has created in the search path are not called
// when somebody publishes the table or changes the feed.
func TestPlantedPublications(t *testing.T) {
	for _, path := range []string{"public", "public,pg_catalog"} {
		t.Run(path, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			role, attacker := b.role("")
			b.exec("GRANT CREATE ON SCHEMA public TO " + role)
			b.plant(attacker)
			b.plantMore(attacker)
			b.exec("SET search_path = public, pg_catalog; SELECT clock_timestamp() > clock_timestamp() - interval '1 hour'; RESET search_path")
			if n := len(b.caught()); n != 4 {
				t.Fatalf("caught %v: the trap does not work", b.caught())
			}
			b.exec("TRUNCATE caught")
			url := with(t, b.url, "search_path", path)

			owner := connect(t, b.ctx, url)
			for range 2 { // created, and changed
				if _, err := owner.Exec(b.ctx, schema.PublicationsUp); err != nil {
					t.Fatal(err)
				}
				if _, err := owner.Exec(b.ctx, "SET search_path = "+path); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := owner.Exec(b.ctx, schema.PublicationsDown); err != nil {
				t.Fatal(err)
			}
			b.expectNothingCaught("psql")

			// It publishes the table by itself.
			hints, _ := b.readsWAL(wal(url))
			b.announces(hints, "public.jobs", 1, "now")
			b.member, b.lease = b.join(b.Source)
			b.expectNothingCaught("the feed")

			change := pgsource.FeedSwitch{DatabaseURL: url, To: pgsource.FeedWAL, Patience: time.Millisecond}
			if err := change.Run(b.ctx); err != nil {
				t.Error(err)
			}
			b.expectNothingCaught("the change to wal")
			change.To = pgsource.FeedNotify
			if err := change.Run(b.ctx); err == nil || !strings.Contains(err.Error(), "hears by wal") {
				t.Errorf("away from an instance that is told to read the WAL: %v", err)
			}
			if err := b.member.Leave(b.ctx); err != nil {
				t.Fatal(err)
			}
			if err := change.Run(b.ctx); err != nil {
				t.Error(err)
			}
			b.expectNothingCaught("the change to notify")
		})
	}
}

// plantMore creates what the change of feeds and the publications would call by the search path.
func (b *bench) plantMore(url string) {
	b.t.Helper()
	attacker := connect(b.t, b.ctx, url)
	for _, f := range []struct{ name, args, returns, result string }{
		{"clock_timestamp", "", "pg_catalog.timestamptz", "pg_catalog.now()"},
		{"before", "pg_catalog.timestamptz, pg_catalog.timestamptz", "boolean", "true"},
		{"less", "pg_catalog.timestamptz, pg_catalog.interval", "pg_catalog.timestamptz", "$1"},
		{"same", "pg_catalog.name, pg_catalog.name", "boolean", "true"},
		{"substr", "pg_catalog.text, integer", "pg_catalog.text", "''"},
		{"pg_notify", "pg_catalog.text, pg_catalog.text", "void", ""},
		{"pg_logical_emit_message", "boolean, pg_catalog.text, pg_catalog.text", "pg_lsn", "'0/0'"},
	} {
		if _, err := attacker.Exec(b.ctx, "CREATE FUNCTION public."+f.name+"("+f.args+") RETURNS "+f.returns+
			" LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('"+f.name+"'); RETURN "+f.result+"; END $$"); err != nil {
			b.t.Fatalf("%s: %v", f.name, err)
		}
	}
	for name, o := range map[string][3]string{
		">": {"pg_catalog.timestamptz", "pg_catalog.timestamptz", "before"},
		"-": {"pg_catalog.timestamptz", "pg_catalog.interval", "less"},
		"=": {"pg_catalog.name", "pg_catalog.name", "same"},
	} {
		if _, err := attacker.Exec(b.ctx, "CREATE OPERATOR public."+name+" (LEFTARG = "+o[0]+", RIGHTARG = "+o[1]+", FUNCTION = public."+o[2]+")"); err != nil {
			b.t.Fatalf("%s: %v", name, err)
		}
	}
}

func (b *bench) expectNothingCaught(who string) {
	b.t.Helper()
	if list := b.caught(); len(list) > 0 {
		b.t.Errorf("%s has called %v", who, list)
	}
}
