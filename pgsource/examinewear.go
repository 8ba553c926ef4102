package pgsource

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The questions about what makes a database slow after a while: every claim leaves a dead row, which
// nothing but vacuum removes.

// autovacuum asks whether vacuum comes by itself to the tables that change with every job.
func (x *examination) autovacuum(ctx context.Context) {
	const check = "autovacuum"
	var on, counts bool
	var off []string
	err := x.background.row(ctx, treeSQL+`
		SELECT current_setting('autovacuum')::bool, current_setting('track_counts')::bool,
		       ARRAY(SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' AND (c.oid IN (SELECT oid FROM tree) OR relnamespace = to_regnamespace('reactor'))
		                AND EXISTS (SELECT FROM unnest(reloptions) AS made WHERE made ~ '^autovacuum_enabled=(false|off|no|0|f|n)$') ORDER BY 1)`,
		[]any{x.jobs().name}, &on, &counts, &off)
	const harm = ": dead rows pile up, and every read of due jobs gets slower"
	switch {
	case err != nil:
		x.failed(check, err)
	case !on || !counts:
		x.add(check, driver.Problem, "switched off in the server"+harm, "run ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf() as a superuser")
	case len(off) > 0:
		var remedies []string
		for _, table := range off {
			remedies = append(remedies, "ALTER TABLE "+table+" RESET (autovacuum_enabled)")
		}
		x.add(check, driver.Problem, "switched off for "+strings.Join(off, ", ")+harm, "as the owner of the tables run "+strings.Join(remedies, "; "))
	default:
		x.add(check, driver.Fine, "on, for all tables that change with every job", "")
	}
}

// manyDead is from how many dead rows on a table is reported, if there are more of them than live ones.
const manyDead = 10_000

// deadRows asks how many dead rows there are. The server's count is an estimate.
func (x *examination) deadRows(ctx context.Context) {
	const check = "dead rows"
	type count struct {
		Table      string
		Dead, Live int64
	}
	var list []count
	var all int64
	err := x.background.rows(ctx, treeSQL+`
		SELECT relid::regclass::text, n_dead_tup, n_live_tup FROM pg_stat_all_tables
		 WHERE relid IN (SELECT oid FROM tree) OR schemaname = 'reactor' ORDER BY n_dead_tup DESC`,
		[]any{x.jobs().name}, func(rows pgx.Rows) (err error) {
			list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[count])
			return err
		})
	if err != nil {
		x.failed(check, err)
		return
	}
	for _, c := range list {
		if all += c.Dead; c.Dead > manyDead && c.Dead > c.Live {
			x.add(check, driver.Warning, fmt.Sprintf("%s has %d dead rows, and %d live ones", c.Table, c.Dead, c.Live), "see what holds the oldest snapshot, and whether autovacuum is on; then run VACUUM "+c.Table)
			return
		}
	}
	x.add(check, driver.Fine, fmt.Sprintf("%d in all tables, no more than usual", all), "")
}

// snapshotsSQL finds who holds the oldest snapshot: a session, a prepared transaction or a replication slot.
// Everybody may see how many transactions it is old; how long and whose, only pg_read_all_stats.
const snapshotsSQL = `
SELECT who, remedy, coalesce(extract(epoch FROM clock_timestamp() - since), -1)::float8, old::int8 FROM (
    SELECT format('the session of process %s%s%s%s', pid, ', role ' || quote_ident(usename), ', ' || quote_literal(nullif(application_name, '')), ', ' || state),
           format('end it: SELECT pg_terminate_backend(%s)', pid), xact_start, age(backend_xmin)
      FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND coalesce(backend_type, '') <> 'autovacuum worker' AND (datid IS NULL OR datname = current_database())
    UNION ALL
    SELECT format('the prepared transaction %L of role %I', gid, owner), format('end it: COMMIT PREPARED %L, or ROLLBACK PREPARED %1$L', gid), prepared, age(transaction)
      FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT format('the replication slot %I', slot_name), format('have its standby catch up, or drop it: SELECT pg_drop_replication_slot(%L)', slot_name), NULL, age(xmin)
      FROM pg_replication_slots WHERE xmin IS NOT NULL
) AS holder (who, remedy, since, old) ORDER BY since NULLS LAST, old DESC`

// manyTransactions is how old a snapshot may be of which we may not see the time.
const manyTransactions = 1_000_000

// oldestSnapshot asks who keeps vacuum from removing dead rows.
func (x *examination) oldestSnapshot(ctx context.Context) {
	const check = "oldest snapshot"
	var held string
	reported := false
	err := x.background.rows(ctx, snapshotsSQL, nil, func(rows pgx.Rows) error {
		var who, remedy string
		var seconds float64
		var transactions int64
		_, err := pgx.ForEachRow(rows, []any{&who, &remedy, &seconds, &transactions}, func() error {
			age := fmt.Sprintf("%d transactions", transactions)
			if seconds >= 0 {
				age = time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
			}
			if seconds >= x.long.Seconds() || seconds < 0 && transactions > manyTransactions {
				reported = true
				x.add(check, driver.Warning, who+" holds one for "+age+": vacuum removes no row that has died since", remedy)
			} else if held == "" {
				held = "the oldest is held for " + age
			}
			return nil
		})
		return err
	})
	switch {
	case err != nil:
		x.failed(check, err)
	case reported:
	case held == "":
		x.add(check, driver.Fine, "nobody holds one", "")
	default:
		x.add(check, driver.Fine, held, "")
	}
}

// queue asks how full the queue of notifications is. When it is full, the commits of applications fail.
func (x *examination) queue(ctx context.Context) {
	var used float64
	if err := x.ask(ctx, "SELECT pg_notification_queue_usage()", nil, &used); err != nil {
		x.failed("NOTIFY queue", err)
		return
	}
	x.list = append(x.list, queueFinding(used))
}

func queueFinding(used float64) driver.Finding {
	f := driver.Finding{Check: "NOTIFY queue", What: fmt.Sprintf("%.0f %% full", used*100)}
	if used < 0.1 {
		return f
	}
	f.Verdict = driver.Warning
	if used > 0.5 {
		f.Verdict = driver.Problem
	}
	f.What += ": when it is full, every commit that has inserted a job due within a minute fails"
	f.Remedy = emptyQueue
	return f
}
