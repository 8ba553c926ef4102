package pgsource

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A pooler keeps its connections to the server for an hour. They keep the defaults that were valid
// when they were opened, or settings that another client has left. If a direct connection takes no
// writes, it is closed, and the next one gets the current defaults; behind a pooler the next one
// may lead to the same session.

// endStaleSQL ends its own session if that is read-only and a new session would not be. If the
// role, the database or the server makes sessions read-only, it does nothing: somebody may have set
// that to keep writers out.
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

// staleTimeout is how long the pooler may take to notice.
const staleTimeout = 2 * time.Second

// endStale ends the session of a connection through a pooler that takes no writes, if that helps.
func endStale(ctx context.Context, conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	// The statement ends with the session, or returns nothing: this connection is unusable in
	// both cases.
	_ = conn.Exec(ctx, endStaleSQL).Close()
}
