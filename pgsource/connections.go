package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// querier is a pool or a connection.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// connectionLimitsSQL reads how many connections the server, the role and the database allow; -1
// means any number. A superuser is bound by the server's limit alone, and may use the reserved
// connections. The second reserve exists from PostgreSQL 16 on, for roles that were granted it.
const connectionLimitsSQL = `
SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int4,
       CASE WHEN me.rolsuper THEN 0
            ELSE pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4 END,
       CASE WHEN me.rolsuper THEN 0
            WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000 THEN 0
            WHEN pg_catalog.pg_has_role(me.rolname, 'pg_use_reserved_connections', 'USAGE') THEN 0
            ELSE pg_catalog.current_setting('reserved_connections')::pg_catalog.int4 END,
       me.rolname, CASE WHEN me.rolsuper THEN -1 ELSE me.rolconnlimit END,
       d.datname, CASE WHEN me.rolsuper THEN -1 ELSE d.datconnlimit END
  FROM pg_catalog.pg_roles me, pg_catalog.pg_database d
 WHERE me.rolname = session_user AND d.datname = pg_catalog.current_database()`

// checkConnections checks that we may open as many connections as we need at most.
func (s *Source) checkConnections(ctx context.Context) error {
	conn, err := s.control.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.release()
	return checkConnections(ctx, conn, s.cfg.MaxConns+extraConns)
}

// checkConnections compares the largest number of connections that the source will hold with the number
// that is allowed: a limit below that is a mistake, which would show when there is the most to do.
//
// It compares limits only. Whether others have left enough connections is found out by connecting:
// an instance starts if it gets idleConns of them, and works with those that it gets.
// Behind a pooler the limits mean nothing, because the connections are the pooler's.
func checkConnections(ctx context.Context, db querier, want int) error {
	var (
		most, superuser, reserved int
		role, database            string
		ofRole, ofDatabase        int
	)
	err := db.QueryRow(ctx, connectionLimitsSQL).Scan(&most, &superuser, &reserved, &role, &ofRole, &database, &ofDatabase)
	if err != nil {
		return fmt.Errorf("read the limits of connections: %w", err)
	}
	const lower = "lower pgsource.Config.MaxConns, or "
	for _, limit := range []struct {
		allowed        int
		whose, instead string
	}{
		{most - superuser - reserved, "the server allows", lower + "raise max_connections"},
		{ofRole, fmt.Sprintf("role %q is allowed", role), lower + fmt.Sprintf("run ALTER ROLE %q CONNECTION LIMIT %d", role, want)},
		{ofDatabase, fmt.Sprintf("database %q allows", database), lower + fmt.Sprintf("run ALTER DATABASE %q CONNECTION LIMIT %d", database, want)},
	} {
		if limit.allowed >= 0 && want > limit.allowed {
			return fmt.Errorf("an instance needs %d connections to the database, and %s %d: %s", want, limit.whose, limit.allowed, limit.instead)
		}
	}
	return nil
}
