package pgsource

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
)

// ofOtherDeployment reports whether a table of jobs, in a schema, belongs to another deployment of the
// database. Its triggers or publications say so, or the record of that deployment, if our role may read
// that; sql/schema.sql looks in the same way before it takes a table.
func (s *Source) ofOtherDeployment(ctx context.Context, home string) (bool, error) {
	type deployment struct {
		Schema   string
		Known    bool
		Readable bool
	}
	var others []deployment
	if err := s.control.rows(ctx, `
		SELECT n.nspname,
		       EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = to_regclass($1) AND p.pronamespace = n.oid AND p.proname = 'announce_jobs')
		       OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
		                   WHERE r.prrelid = to_regclass($1) AND p.pubname IN (n.nspname || '_jobs_inserted', n.nspname || '_jobs_updated')),
		       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
		  FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid JOIN pg_attribute a ON a.attrelid = c.oid
		 WHERE c.relname = 'deployment' AND c.relkind = 'r' AND a.attname = 'jobs_schema' AND NOT a.attisdropped AND n.nspname <> 'reactor'`,
		[]any{qualified(s.names, home)}, func(rows pgx.Rows) (err error) {
			others, err = pgx.CollectRows(rows, pgx.RowToStructByPos[deployment])
			return err
		}); err != nil {
		return false, err
	}
	for _, other := range others {
		if other.Known {
			return true, nil
		}
		if !other.Readable {
			continue
		}
		var its bool
		if err := s.control.row(ctx, "SELECT EXISTS (SELECT FROM "+pgx.Identifier{other.Schema, "deployment"}.Sanitize()+" d WHERE d.jobs_schema = $1 AND coalesce(to_jsonb(d) ->> 'jobs_table', $2) = $3)",
			[]any{home, naming.DefaultTable, s.names.Table()}, &its); err != nil {
			return false, err
		}
		if its {
			return true, nil
		}
	}
	return false, nil
}
