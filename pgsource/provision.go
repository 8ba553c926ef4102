package pgsource

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// provision is what the deployment has to tell us of new jobs.
type provision struct {
	triggers  bool          // both of them, enabled
	published bool          // all of the table is in the publications, as it must be
	tree      bool          // the table has partitions or heirs
	at        driver.DBTime // before it was looked at
}

// treeSQL and publishedSQL tell whether all of the table is published as sql/publications.sql
// does it: partitions as their root, heirs as tables of their own, if their rows have names. Not
// less, or rows would be missed; and with all the columns that name a row now, or every UPDATE
// would fail, each claim among them. $1 is the table.
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
       relkind = 'p' OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid), statement_timestamp()
  FROM pg_class c WHERE oid = to_regclass($1)`
)

func (s *Source) provision(ctx context.Context) (p provision, err error) {
	var at dbTime
	err = s.aside.row(ctx, provisionSQL, []any{s.jobs().name}, &p.triggers, &p.published, &p.tree, &at)
	p.at = at.DBTime
	return p, err
}

// watchTable looks for what announces new jobs: without it everything still works, just
// later, and silently so. And it notices partitions or heirs that the table has got.
func (s *Source) watchTable(ctx context.Context) {
	jobs := s.jobs()
	p, err := s.provision(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		s.findAgain(ctx)
	}
	if err != nil {
		return // whoever needs the table will say so
	}
	if s.cfg.Feed == FeedNotify && !p.triggers {
		s.log.Warn("the table jobs lacks its triggers: new jobs are found by the sweep only, up to a loop late; run psql -f sql/triggers.sql", "table", jobs.name)
	}
	if p.tree != jobs.tree {
		changed := newTable(jobs.schema, p.tree)
		s.table.Store(&changed)
	}
}

// findAgain looks for a table that is not where it was.
func (s *Source) findAgain(ctx context.Context) {
	found, err := s.findTable(ctx, nil)
	if err != nil {
		s.gone.Fail(s.log, slog.LevelWarn, "the table of jobs is gone", "err", err)
		return
	}
	s.table.Store(&found)
}

// publish creates the publications, or brings them up to date. One transaction: if we die in
// it nothing has happened. Of several instances one does it, and the others do it again, which
// changes nothing. What the server says against it is returned as it says it.
func publish(ctx context.Context, databaseURL string) error {
	var said error
	err := withConnection(ctx, databaseURL, false, func(conn *pgx.Conn) error {
		said = locked(ctx, conn, func(tx pgx.Tx) error {
			if err := script(ctx, tx, "SET LOCAL lock_timeout = '2s'"); err != nil {
				return err
			}
			return script(ctx, tx, schema.PublicationsUp)
		})
		return said
	})
	if said != nil {
		return said
	}
	return err
}
