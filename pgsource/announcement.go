package pgsource

import (
	"context"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	schema "github.com/job-publisher/reactor/sql"
)

// renewedAnnouncement is what MigrateUp returns for the function of the triggers, which has no
// version of its own.
const renewedAnnouncement = "triggers that name shards"

// renewAnnouncement replaces the function of the triggers where it is of a version before 5, which
// does not name the shards of what was inserted. Instances of those versions ignore what the new
// function sends, and would find new jobs late. So it is replaced when no such instance lives: with
// `reactor run --migrate` by the last instance that is upgraded. None can start after that, because
// an earlier program refuses version 5 of the schema.
//
// Nothing depends on it but the number of reads. So it is no error if our role may not do it.
func renewAnnouncement(ctx context.Context, conn *pgx.Conn) (name string, err error) {
	var outdated bool
	check := func(tx pgx.Tx) error {
		if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT "+outdatedAnnouncementSQL).Scan(&outdated)
		if err != nil || !outdated {
			return err
		}
		old, err := oldInstancesLive(ctx, tx)
		outdated = !old
		return err
	}
	// Without the lock first: mostly there is nothing to do, and our role may read only.
	if err := inMigrationTx(ctx, conn, check); err != nil || !outdated {
		return "", err
	}
	err = inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) error {
		if err := check(tx); err != nil || !outdated {
			return err
		}
		name = renewedAnnouncement
		return execScript(ctx, tx, schema.AnnounceUp)
	})
	if sqlState(err) == pgerrcode.InsufficientPrivilege {
		return "", nil // the instances say what is missing (provision.go)
	}
	return name, err
}

// oldInstancesLive reports whether an instance of a version before 5 is running. The column may not
// exist yet.
func oldInstancesLive(ctx context.Context, tx pgx.Tx) (live bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 FROM reactor.instances i
		 WHERE (pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'shard_hints'::pg_catalog.text) IS NULL
		   AND heartbeat_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '10 seconds'::pg_catalog.interval)`).Scan(&live)
	return live, err
}

// suitOldInstances follows a text that creates the triggers: while an instance lives that does not
// understand what they send, they get the function of its version.
func suitOldInstances(ctx context.Context, tx pgx.Tx) error {
	live, err := oldInstancesLive(ctx, tx)
	if err != nil || !live {
		return err
	}
	return execScript(ctx, tx, schema.AnnounceDown)
}

// outdatedAnnouncementSQL tells whether the function of the triggers is of a version before 5. One
// that somebody has changed by hand, and that names the shards, is left alone.
const outdatedAnnouncementSQL = "EXISTS (SELECT FROM pg_proc WHERE oid = to_regproc('reactor.announce_jobs') AND strpos(prosrc, 'shard') = 0)"
