package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	schema "github.com/job-publisher/reactor/sql"
)

// DownPlan describes what MigrateDown would do.
type DownPlan struct {
	// Version is the number of the version that would be undone, and Name its name; "" if no
	// version is applied.
	Version int64
	Name    string
	// Loses describes the data that would be lost; "" if none would.
	Loses string
}

// sideBySide is the first version that can be undone while instances of earlier ones run. To undo an earlier version,
// no instance may run.
const sideBySide = 7

// PlanDown describes what undoing the newest applied version would do. It changes nothing. It
// returns an error while instances are running that know the version, because they would lose what they work
// with.
func PlanDown(ctx context.Context, databaseURL string, of ...Names) (DownPlan, error) {
	var p DownPlan
	err := withConnection(ctx, databaseURL, only(of), false, func(conn *pgx.Conn) error {
		return inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) (err error) {
			p, err = planDown(ctx, tx)
			return err
		})
	})
	return p, err
}

// MigrateDown undoes the newest applied version, provided that it is still the one that was
// planned, and returns its name; "" if no version is applied. Undoing version 1 drops the jobs.
func MigrateDown(ctx context.Context, databaseURL string, planned DownPlan, of ...Names) (string, error) {
	err := withConnection(ctx, databaseURL, only(of), false, func(conn *pgx.Conn) error {
		return patiently(ctx, conn, func(tx pgx.Tx) error {
			p, err := planDown(ctx, tx)
			switch {
			case err != nil || p.Name == "":
				return err
			case p.Version != planned.Version:
				return errors.New("somebody else has changed the schema meanwhile: look again with `reactor migrate status`")
			}
			if err := execScript(ctx, tx, schema.Migrations[p.Version-1].Down); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, "DELETE FROM reactor.schema_version WHERE version_id = $1", p.Version)
			return err
		})
	})
	return planned.Name, err
}

// planDown only reads. The table that would be dropped is the one that the deployment records,
// wherever the search path leads.
func planDown(ctx context.Context, tx pgx.Tx) (p DownPlan, err error) {
	// The role's search path may lead to functions and operators of anybody.
	if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
		return p, err
	}
	applied, err := appliedVersions(ctx, tx)
	if err != nil {
		return p, err
	}
	for _, m := range schema.Migrations {
		if _, ok := applied[m.Version]; ok {
			p.Version, p.Name = m.Version, m.Name
		}
	}
	if p.Name == "" {
		return p, nil
	}
	var running []string
	if err := tx.QueryRow(ctx, `
		SELECT array_agg(name ORDER BY name) FROM reactor.instances i
		 WHERE heartbeat_at > clock_timestamp() - interval '1 minute' AND ($1::bigint < $2::bigint OR (to_jsonb(i) ->> 'schema_version')::bigint >= $1::bigint)`,
		p.Version, sideBySide).Scan(&running); err != nil {
		return p, err
	}
	if len(running) > 0 {
		return p, fmt.Errorf("instances are running (%s): stop them first, or wait for a minute if they were killed", strings.Join(running, ", "))
	}
	if p.Version == 6 {
		return p, refuseUnknownJobs(ctx, tx)
	}
	if p.Version > 1 {
		return p, nil
	}
	var home *string
	if err := tx.QueryRow(ctx, "SELECT jobs_schema FROM reactor.deployment").Scan(&home); err != nil {
		return p, err
	}
	if home == nil {
		return p, errors.New("the schema is of an earlier version and does not say which table of jobs is reactor's: run `reactor migrate up` first")
	}
	name := qualified(txNames(tx), *home)
	var there, ours bool
	if err := tx.QueryRow(ctx, `
		SELECT to_regclass($1) IS NOT NULL,
		       EXISTS (SELECT FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		                WHERE attrelid = to_regclass($1) AND relkind IN ('r', 'p') AND attname = 'shard' AND NOT attisdropped)`,
		name).Scan(&there, &ours); err != nil {
		return p, err
	}
	if there && !ours {
		return p, fmt.Errorf("the table %s is not reactor's any more, and would be dropped: rename it", name)
	}
	var jobs, waiting, failed int64
	if there {
		// Jobs in the journal are marked as processed, but it is not known that they were
		// published.
		err = tx.QueryRow(ctx, `
			SELECT count(*), count(*) FILTER (WHERE NOT processed) + (SELECT coalesce(sum(cardinality(job_ids) - settled), 0)::bigint FROM reactor.in_flight),
			       (SELECT count(*) FROM reactor.failed_jobs) FROM `+name).Scan(&jobs, &waiting, &failed)
	}
	p.Loses = fmt.Sprintf("the table %s with %d jobs, %d of them not published yet, and the records of %d failed ones", name, jobs, waiting, failed)
	return p, err
}

// refuseUnknownJobs returns an error while the journal has jobs that a version before 6 would send again
// without what it does not know (sql/guards.sql). A row that is not claimed does no harm: its constraint
// keeps it from being claimed by such a version.
func refuseUnknownJobs(ctx context.Context, tx pgx.Tx) error {
	var home *string
	if err := tx.QueryRow(ctx, "SELECT jobs_schema FROM reactor.deployment WHERE to_regclass(format('%I.jobs', jobs_schema)) IS NOT NULL").Scan(&home); errors.Is(err, pgx.ErrNoRows) {
		return nil // the table is gone, and the jobs with it
	} else if err != nil {
		return err
	}
	var unknown int
	err := tx.QueryRow(ctx, `
		SELECT count(*) FROM reactor.in_flight AS f CROSS JOIN LATERAL unnest(f.job_ids) AS entry (id) JOIN `+qualified(txNames(tx), *home)+` AS job ON job.id = entry.id AND job.claim = f.token
		 WHERE job.retain OR job.payload_bytes IS NOT NULL OR job.qos IS NOT NULL OR job.content_type IS NOT NULL OR job.response_topic IS NOT NULL
		    OR job.correlation_data IS NOT NULL OR job.headers IS NOT NULL OR job.key IS NOT NULL OR job.ordering_key IS NOT NULL`).Scan(&unknown)
	if err == nil && unknown > 0 {
		err = fmt.Errorf("%d jobs are on their way that an earlier version would publish without their properties: start an instance of this version, stop it when they have ended (`reactor jobs list --state firing`), and try again", unknown)
	}
	return err
}
