package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// Partitions maintains the partitions of a table that has been converted (ConvertToPartitions): it
// makes those of the next intervals, and drops old ones as a whole.
type Partitions struct {
	// DatabaseURL is a connection string of the owner of the table. See Config.DatabaseURL.
	DatabaseURL string
	// Names are those of the deployment.
	Names Names
	// Ahead is how many intervals after the present one have a partition. Jobs that are due later
	// wait in the default partition, and move when their partition is made. 0 to 400.
	Ahead int
	// Retain is how long after its end a partition is kept; 0: for ever. An hour at least. A partition
	// with a job that is not published yet is kept, whatever its age.
	Retain time.Duration
	// Patience is how long Maintain tries to lock the table for one change. Defaults to one minute.
	Patience time.Duration
	// Tell is called after each change, with a text that describes it. Optional.
	Tell func(step string)

	// by is the instance that does it, over whose hosts; nil: whoever has called it.
	by *Source
}

const (
	// ddlLockTimeout is how long a change of partitions waits for its locks. What comes after it in the
	// queue for the lock, such as a claim, waits as long; it is less than the lead of a claim under
	// load. Transactions that are longer than that are awaited by trying again.
	ddlLockTimeout = "20ms"
	// ddlPause is the pause after the first attempt. It doubles with each, because each may hold up
	// others for ddlLockTimeout, and a backup or a report may hold its lock for hours.
	ddlPause = 100 * time.Millisecond
	// mostAhead is the largest Partitions.Ahead.
	mostAhead = 400
)

// ErrNotPartitioned: nobody has converted the table, so there is nothing to maintain.
var ErrNotPartitioned = errors.New("the table of jobs has no partitions that reactor maintains: `reactor partitions convert` makes them")

// Partition is one partition of the table. It holds the jobs with From <= fire_at < To.
type Partition struct {
	Name     string // qualified
	From, To driver.DBTime
	Default  bool // it holds what no other partition does; From and To have no meaning
	Waiting  bool // it has jobs that nobody has claimed
	Bytes    int64
	oid      uint32
}

// ConvertToPartitions makes the table one with partitions, each for one interval, and copies all jobs
// in one transaction: if we crash, nothing has happened. No instance may run. If the table has
// partitions already, it only records the interval, by which Maintain makes further ones.
func ConvertToPartitions(ctx context.Context, databaseURL string, interval time.Duration, of ...Names) error {
	return withConnection(ctx, databaseURL, only(of), false, func(conn *pgx.Conn) error {
		return inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_catalog.set_config('reactor.partition_interval', $1, true)", fmt.Sprintf("%d microseconds", interval.Microseconds())); err != nil {
				return err
			}
			if err := execScript(ctx, tx, schema.PartitionsUp); err != nil {
				return err
			}
			var published bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'reactor_jobs_updated')").Scan(&published); err != nil || !published {
				return err
			}
			return execScript(ctx, tx, schema.PublicationsUp)
		})
	})
}

// ListPartitions returns the partitions in order, the default partition last, and the interval.
func ListPartitions(ctx context.Context, databaseURL string, of ...Names) (list []Partition, interval time.Duration, err error) {
	err = withRights(ctx, databaseURL, only(of), toSeePartitions, true, func(conn *pgx.Conn) error {
		return inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			t, err := partitionsNow(ctx, tx)
			if err != nil {
				return err
			}
			for i := range t.list {
				p := &t.list[i]
				if err := verbatim(tx).QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+p.Name+" WHERE NOT processed), pg_total_relation_size($1::oid)", p.oid).Scan(&p.Waiting, &p.Bytes); err != nil {
					return err
				}
			}
			list, interval = t.list, t.step
			return nil
		})
	})
	return list, interval, err
}

// Maintain makes the partitions that are missing, and drops those that are not retained. It may run
// anywhere, at any time, and many times at once: each change is a transaction under the lock of
// migrations, and begins by looking at what there is. A change that crashes has not happened.
//
// Nothing that fires waits for it for longer than ddlLockTimeout and the change itself, which takes
// milliseconds. The exception are jobs in the default partition: nobody can insert there, or read
// from there, while rows move out of it.
func (p Partitions) Maintain(ctx context.Context) error {
	setDefault(&p.Patience, time.Minute)
	if p.Tell == nil {
		p.Tell = func(string) {}
	}
	switch {
	case p.Ahead < 0 || p.Ahead > mostAhead:
		return &driver.ConfigError{Field: "PartitionsAhead", Value: p.Ahead, Problem: fmt.Sprintf("must be 0 to %d", mostAhead)}
	case p.Retain != 0 && p.Retain < time.Hour:
		return &driver.ConfigError{Field: "RetainPartitions", Value: p.Retain, Problem: "must be an hour at least, or 0 to keep all"}
	}
	connect := func(do func(*pgx.Conn) error) error { return withConnection(ctx, p.DatabaseURL, p.Names, false, do) }
	if p.by != nil {
		connect = func(do func(*pgx.Conn) error) error { return p.by.withConnection(ctx, do) }
	}
	return connect(func(conn *pgx.Conn) error {
		var t partitionTree
		err := inMigrationTx(ctx, conn, func(tx pgx.Tx) (err error) {
			t, err = partitionsNow(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
		var failures []error
		for _, missing := range t.missing(p.Ahead) {
			failures = append(failures, p.change(ctx, conn, func(tx pgx.Tx) (string, error) { return makePartition(ctx, tx, missing) }))
		}
		for _, old := range t.expired(p.Retain) {
			failures = append(failures, p.change(ctx, conn, func(tx pgx.Tx) (string, error) { return dropPartition(ctx, tx, old) }))
		}
		return errors.Join(failures...)
	})
}

// change makes one change, and tries again while somebody holds a lock that it needs.
func (p Partitions) change(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) (string, error)) error {
	for begun, pause := time.Now(), ddlPause; ; pause *= 2 {
		var told string
		err := inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) (err error) {
			if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL enable_seqscan = off; SET LOCAL lock_timeout = '"+ddlLockTimeout+"'"); err != nil {
				return err
			}
			told, err = do(tx)
			return err
		})
		switch code := sqlState(err); {
		case err == nil:
			if told != "" {
				p.Tell(told)
			}
			return nil
		case code != pgerrcode.LockNotAvailable && code != pgerrcode.DeadlockDetected:
			return err
		case time.Since(begun)+pause > p.Patience:
			return explained(err, "a transaction holds a lock on the table of jobs for longer than %v, and its partitions cannot be changed meanwhile: try again when it has ended", p.Patience)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// partitionTree is the table with its partitions.
type partitionTree struct {
	schema string
	now    driver.DBTime
	step   time.Duration // the range of a partition
	list   []Partition   // in order, the default partition last
}

func partitionsNow(ctx context.Context, tx pgx.Tx) (t partitionTree, err error) {
	if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
		return t, err
	}
	var (
		now     dbTime
		seconds *float64
		key     *string
	)
	err = tx.QueryRow(ctx, `
		SELECT jobs_schema, clock_timestamp(), extract(epoch FROM partition_interval)::float8,
		       (SELECT pg_get_partkeydef(partrelid) FROM pg_partitioned_table WHERE partrelid = to_regclass(format('%I.jobs', jobs_schema)))
		  FROM reactor.deployment`).Scan(&t.schema, &now, &seconds, &key)
	switch {
	case err != nil:
		return t, err
	case seconds == nil || key == nil || *key != "RANGE (fire_at)":
		return t, ErrNotPartitioned
	}
	t.now, t.step = now.DBTime, time.Duration(*seconds*float64(time.Second)).Round(time.Second)
	rows, err := tx.Query(ctx, `
		SELECT format('%I.%I', nspname, relname), c.oid, coalesce(bound = 'DEFAULT', false),
		       coalesce((regexp_match(bound, $$FROM \('([^']*)'\)$$))[1]::timestamptz, '-infinity'),
		       coalesce((regexp_match(bound, $$TO \('([^']*)'\)$$))[1]::timestamptz, 'infinity')
		  FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid JOIN pg_namespace n ON n.oid = relnamespace, pg_get_expr(relpartbound, c.oid) AS bound
		 WHERE inhparent = $1::regclass ORDER BY 3, 4`, qualified(txNames(tx), t.schema))
	if err != nil {
		return t, err
	}
	var part Partition
	var from, to dbTime
	_, err = pgx.ForEachRow(rows, []any{&part.Name, &part.oid, &part.Default, &from, &to}, func() error {
		part.From, part.To = from.DBTime, to.DBTime
		t.list = append(t.list, part)
		return nil
	})
	return t, err
}

// missing returns the ranges, from the present interval on, that have no partition.
func (t partitionTree) missing(ahead int) (list []span) {
	step := driver.DBTime(t.step.Microseconds())
	begin := t.now - (t.now%step+step)%step
	for i := range driver.DBTime(ahead) + 1 {
		free := []span{{begin + i*step, begin + (i+1)*step}}
		for _, p := range t.list {
			if !p.Default {
				free = without(free, span{p.From, p.To})
			}
		}
		list = append(list, free...)
	}
	return list
}

// without removes a range from ranges. Here the end of a span is not included.
func without(list []span, taken span) (rest []span) {
	for _, s := range list {
		if before := (span{s.from, min(s.to, taken.from)}); before.from < before.to {
			rest = append(rest, before)
		}
		if after := (span{max(s.from, taken.to), s.to}); after.from < after.to {
			rest = append(rest, after)
		}
	}
	return rest
}

// expired returns the partitions that ended longer than retain ago.
func (t partitionTree) expired(retain time.Duration) []Partition {
	if retain == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(t.list), func(p Partition) bool { return p.Default || p.To > t.now.Add(-retain) })
}

func (t partitionTree) defaultPartition() (p Partition, ok bool) {
	i := slices.IndexFunc(t.list, func(p Partition) bool { return p.Default })
	if i < 0 {
		return p, false
	}
	return t.list[i], true
}

// makePartition makes the partition of a range, and moves its jobs out of the default partition, in
// one transaction: nobody sees a job twice, or not at all. The partition gets the settings, the owner
// and the replica identity of the default partition, and indexes from the table.
//
// ATTACH PARTITION is used, because CREATE TABLE … PARTITION OF locks the whole table: claims go on
// meanwhile. It locks the default partition, moves its rows and reads it once: PostgreSQL has to see
// that no row is left there that belongs to the new one. A constraint of the default partition that
// is validated before would spare that; it would also refuse jobs of that day until the partition is
// there. So the default partition should be small: partitions are made far enough ahead.
func makePartition(ctx context.Context, tx pgx.Tx, r span) (told string, err error) {
	t, err := partitionsNow(ctx, tx)
	if err != nil {
		return "", err
	}
	for _, p := range t.list {
		if !p.Default && p.From < r.to && p.To > r.from {
			return "", nil // somebody else has made it
		}
	}
	old, hasDefault := t.defaultPartition()
	var name, create, columns string
	if err := tx.QueryRow(ctx, `
		WITH called AS (SELECT 'jobs_p' || to_char($2::timestamptz, CASE WHEN extract(epoch FROM $2::timestamptz)::bigint % 86400 = 0 THEN 'YYYYMMDD' ELSE 'YYYYMMDD_HH24MI' END) AS stem),
		     free AS (SELECT format('%I.%I', $1::text, stem || CASE n WHEN 0 THEN '' ELSE '_' || n END) AS name
		                FROM called, generate_series(0, 100) AS n WHERE to_regclass(format('%I.%I', $1::text, stem || CASE n WHEN 0 THEN '' ELSE '_' || n END)) IS NULL ORDER BY n LIMIT 1)
		SELECT name,
		       format('CREATE TABLE %s (LIKE %I.jobs INCLUDING ALL EXCLUDING IDENTITY EXCLUDING INDEXES EXCLUDING STATISTICS)%s; ALTER TABLE %1$s OWNER TO %4$I; ALTER TABLE %1$s REPLICA IDENTITY %5$s',
		              name, $1::text, (SELECT ' WITH (' || array_to_string(reloptions, ', ') || ')' FROM pg_class WHERE oid = $3),
		              pg_get_userbyid(relowner), CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'DEFAULT' END),
		       (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '')
		  FROM free, pg_class c WHERE c.oid = to_regclass(format('%I.jobs', $1::text))`,
		t.schema, r.from.Time(), old.oid).Scan(&name, &create, &columns); err != nil {
		return "", err
	}
	if err := execVerbatim(ctx, tx, create); err != nil {
		return "", err
	}
	var moved int64
	within := fmt.Sprintf("fire_at >= %s AND fire_at < %s", timeLiteral(r.from), timeLiteral(r.to))
	if hasDefault {
		if err := execVerbatim(ctx, tx, "LOCK TABLE "+old.Name+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return "", err
		}
		tag, err := verbatim(tx).Exec(ctx, "WITH moved AS (DELETE FROM "+old.Name+" WHERE "+within+" RETURNING "+columns+") INSERT INTO "+name+" ("+columns+") SELECT "+columns+" FROM moved")
		if err != nil {
			return "", err
		}
		moved = tag.RowsAffected()
	}
	if err := execVerbatim(ctx, tx, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)", qualified(txNames(tx), t.schema), name, timeLiteral(r.from), timeLiteral(r.to))); err != nil {
		return "", err
	}
	told = "made the partition " + name
	if moved > 0 {
		told += fmt.Sprintf(", with %d jobs of the default partition", moved)
	}
	return told, nil
}

// unfinishedSQL tells whether a partition has a job that is not published yet: nobody has claimed it,
// or it is in the journal, or it waits to be returned to the table. One statement reads all three:
// a job moves between them in one commit.
const unfinishedSQL = `
SELECT EXISTS (SELECT FROM {part} WHERE NOT processed)
    OR EXISTS (SELECT FROM reactor.in_flight AS f CROSS JOIN LATERAL unnest(f.job_ids) AS entry (id) JOIN {part} AS job ON job.id = entry.id AND job.claim = f.token)
    OR EXISTS (SELECT FROM reactor.retries AS r JOIN {part} AS job ON job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) WHERE NOT r.returned)`

// dropPartition drops a partition of which every job is finished.
//
// PostgreSQL does not detach a partition concurrently where there is a default partition, so both are
// locked, for the milliseconds that the change of the catalog takes; the files go after the commit.
// The partition is examined once before, without a lock, and once more under the lock, after which no
// job can have come or have been claimed.
func dropPartition(ctx context.Context, tx pgx.Tx, old Partition) (told string, err error) {
	t, err := partitionsNow(ctx, tx)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(t.list, func(p Partition) bool { return p.oid == old.oid }) {
		return "", nil // somebody else has dropped it
	}
	for _, locks := range []string{"", "LOCK TABLE ONLY " + qualified(txNames(tx), t.schema) + " IN ACCESS EXCLUSIVE MODE; LOCK TABLE " + old.Name + " IN ACCESS EXCLUSIVE MODE"} {
		if err := execVerbatim(ctx, tx, locks); err != nil {
			return "", err
		}
		var unfinished bool
		if err := verbatim(tx).QueryRow(ctx, ofPart(txNames(tx).In(unfinishedSQL), old.Name)).Scan(&unfinished); err != nil {
			return "", err
		}
		if unfinished {
			return "kept the partition " + old.Name + ": it has jobs that are not published yet", nil
		}
	}
	return "dropped the partition " + old.Name, execVerbatim(ctx, tx, "ALTER TABLE "+qualified(txNames(tx), t.schema)+" DETACH PARTITION "+old.Name+"; DROP TABLE "+old.Name)
}

func ofPart(sql, name string) string { return strings.ReplaceAll(sql, "{part}", name) }

// timeLiteral returns a time as an SQL literal, in whole seconds of UTC.
func timeLiteral(t driver.DBTime) string { return t.Time().UTC().Format("'2006-01-02 15:04:05-00'") }
