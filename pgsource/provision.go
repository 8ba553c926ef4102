package pgsource

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// provision is what the deployment has for announcing new jobs.
type provision struct {
	triggers  bool          // both triggers exist and are enabled
	published bool          // the whole table is in the publications, as sql/publications.sql makes them
	tree      bool          // the table has partitions or inheritance children
	outdated  bool          // the triggers do not name the shards of new jobs
	at        driver.DBTime // a time before it was read
}

// treeSQL and publishedSQL tell whether the whole table is published as sql/publications.sql does
// it: partitions as their root, inheritance children as tables of their own if they have a replica
// identity. With less, rows would be missed. All columns of the current replica identity must be
// published, too, or every UPDATE would fail, and with it every claim. $1 is the table.
const (
	treeSQL = `
WITH RECURSIVE tree (oid, root) AS (
    SELECT oid, oid FROM pg_class WHERE oid = to_regclass($1)
    UNION
    SELECT inhrelid, CASE WHEN relispartition THEN root ELSE inhrelid END
      FROM pg_inherits JOIN tree ON inhparent = tree.oid JOIN pg_class c ON c.oid = inhrelid
), member AS (
    SELECT c.oid, root, relreplident = 'f' AS whole,
           (SELECT min(indexrelid) FROM pg_index
             WHERE indrelid = c.oid AND indimmediate AND indisvalid
               AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident ELSE false END) AS identity
      FROM tree JOIN pg_class c ON c.oid = tree.oid
), part AS (
    SELECT root, root = to_regclass($1) AS main, bool_and(whole OR identity IS NOT NULL) AS named, bool_or(whole) AS whole FROM member GROUP BY root
)`
	publishedSQL = `
NOT EXISTS (
    SELECT FROM part, (VALUES ('reactor_jobs_inserted', true), ('reactor_jobs_updated', false)) AS wanted (name, inserts)
     WHERE (main OR named) AND NOT (named AND EXISTS (
           SELECT FROM pg_publication p JOIN pg_publication_rel ON prpubid = p.oid
            WHERE pubname = wanted.name AND prrelid = root AND pubviaroot
              AND CASE WHEN inserts THEN pubinsert AND pg_get_expr(prqual, prrelid) = '(NOT processed)' ELSE pubupdate AND prqual IS NULL END
              AND (prattrs IS NULL OR NOT whole AND NOT EXISTS (
                   SELECT FROM member JOIN pg_index ON indexrelid = identity JOIN pg_attribute key ON key.attrelid = indrelid AND key.attnum = ANY (indkey)
                    WHERE member.root = part.root AND NOT EXISTS (
                          SELECT FROM pg_attribute sent WHERE sent.attrelid = prrelid AND sent.attnum = ANY (prattrs) AND sent.attname = key.attname))))))
AND NOT EXISTS (
    SELECT FROM part JOIN pg_publication_rel ON prrelid = root JOIN pg_publication p ON p.oid = prpubid
     WHERE pubname = 'reactor_jobs_updated' AND NOT named)`

	provisionSQL = treeSQL + `
SELECT (SELECT count(*) = 2 FROM pg_trigger
         WHERE tgrelid = c.oid AND tgenabled IN ('O', 'A') AND tgname IN ('reactor_jobs_inserted', 'reactor_jobs_updated')),
       ` + publishedSQL + `,
       relkind = 'p' OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid), ` + outdatedAnnouncementSQL + `, statement_timestamp()
  FROM pg_class c WHERE oid = to_regclass($1)`
)

func (s *Source) provision(ctx context.Context) (p provision, err error) {
	var at dbTime
	err = s.background.row(ctx, provisionSQL, []any{s.jobs().name}, &p.triggers, &p.published, &p.tree, &p.outdated, &at)
	p.at = at.DBTime
	return p, err
}

// watchTable warns if nothing announces new jobs: without announcements everything still works, but
// later, and nothing else reports it. It also notices when the table has got partitions or
// children, or has moved.
func (s *Source) watchTable(ctx context.Context) {
	jobs := s.jobs()
	p, err := s.provision(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		s.findTableAgain(ctx)
	}
	if err != nil {
		return // the components that need the table report the error
	}
	if s.cfg.Feed == FeedNotify && !p.triggers {
		s.log.Warn("the table jobs lacks its triggers: new jobs are found by the sweep only, up to a loop late; run `reactor migrate feed notify`", "table", jobs.name)
	}
	if outdated := p.triggers && p.outdated; outdated && !s.saidOutdated.Swap(outdated) {
		s.log.Info("the triggers are of an earlier version and do not name shards, so that every instance reads for every insert: when no instance of an earlier version runs any more, run `reactor migrate up` as the owner of the database")
	}
	if p.tree != jobs.tree {
		changed := newTable(s.names, jobs.schema, p.tree)
		s.table.Store(&changed)
		s.reset() // the connections make other plans for a tree
	}
}

// findTableAgain searches for a table that is not where it was.
func (s *Source) findTableAgain(ctx context.Context) {
	found, err := s.findTable(ctx, nil)
	if err != nil {
		s.gone.Fail(s.log, slog.LevelWarn, "the table of jobs is gone", "err", err)
		return
	}
	s.table.Store(&found)
}

// publishAttempts is how often publish tries while it is ended for a deadlock.
const publishAttempts = 5

// publish creates the publications, or updates them, in one transaction: if we crash in it, nothing
// has happened. If several instances do it, the later ones change nothing. An error of the server
// is returned without a change.
//
// Who creates an index without a lock, as retention does, waits for all other transactions, while this one waits for
// the table: PostgreSQL ends one of the two.
func publish(ctx context.Context, connect func(context.Context, func(*pgx.Conn) error) error) error {
	var said error
	err := connect(ctx, func(conn *pgx.Conn) error {
		for range publishAttempts {
			said = inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) error {
				if err := execScript(ctx, tx, "SET LOCAL lock_timeout = '2s'"); err != nil {
					return err
				}
				return execScript(ctx, tx, schema.PublicationsUp)
			})
			if sqlState(said) != pgerrcode.DeadlockDetected {
				break
			}
		}
		return said
	})
	if said != nil {
		return said
	}
	return err
}
