package pgsource

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A pooler keeps its connections to the server for an hour, and with them what was the rule
// when they were made, or what a stranger has set and left. A connection of our own that takes
// no writes is closed, and the next one follows the rule of now; behind a pooler the next one
// may well lead to the same session.

// endStaleSQL ends the session that it is run in, if that is read-only and a new one would not
// be. Where that is the rule, of the role, the database or the server, somebody may have made
// it to keep writers out.
const endStaleSQL = `SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()) FROM pg_catalog.pg_settings
 WHERE name OPERATOR(pg_catalog.=) 'default_transaction_read_only' AND setting OPERATOR(pg_catalog.=) 'on'
   AND source OPERATOR(pg_catalog.=) ANY ('{session,client,user,database user,database,global}'::pg_catalog.text[])
   AND NOT pg_catalog.pg_is_in_recovery()
   AND NOT EXISTS (
       SELECT FROM pg_catalog.pg_db_role_setting AS rule, pg_catalog.unnest(setconfig) AS made
        WHERE setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())])
          AND setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) SESSION_USER)])
          AND CASE WHEN pg_catalog.starts_with(made, 'default_transaction_read_only=')
                   THEN pg_catalog.split_part(made, '=', 2)::pg_catalog.bool ELSE false END)`

// stalePatience is how long the pooler may take to notice.
const stalePatience = 2 * time.Second

// takesWritesPooled is takesWrites for a connection to a pooler.
func takesWritesPooled(ctx context.Context, conn *pgconn.PgConn) error {
	err := takesWrites(ctx, conn)
	if errors.Is(err, errReadOnly) {
		ctx, cancel := context.WithTimeout(ctx, stalePatience)
		defer cancel()
		// It ends with the session, or says nothing: either way this one is of no use.
		_ = conn.Exec(ctx, endStaleSQL).Close()
	}
	return err
}
