package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/naming"

	"github.com/jackc/pgerrcode"
)

// Open inspects the server, the path to it, the table, and our rights on the table, before anything
// is claimed.

// minServerVersion is the oldest supported PostgreSQL, as server_version_num.
const minServerVersion = 150000

// inspectServer finds out, over a connection of its own, where the database URL leads, and returns
// the search path that our role has there.
//
// The protocol names the backend of a connection, and so does SQL. Where they differ there is a
// pooler in between, and what we set, prepare or lock in the session is not ours alone. A pooler in
// session mode looks the same and is treated the same.
func (s *Source) inspectServer(ctx context.Context) (path []string, err error) {
	for range 5 {
		// A role's default timeout may cancel the statement before we can change the timeout.
		if path, err = s.inspectServerOnce(ctx); sqlState(err) != pgerrcode.QueryCanceled {
			break
		}
	}
	return path, err
}

func (s *Source) inspectServerOnce(ctx context.Context) (path []string, err error) {
	cfg, err := pgx.ParseConfig(s.cfg.DatabaseURL)
	if err != nil {
		return nil, redacted(err)
	}
	s.configure(cfg)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var (
		pid, version           int
		shown, encoding, admin string
		standby                bool
	)
	conn, err := connectWithoutLimits(ctx, cfg, s.hosts.connect, func(conn *pgx.Conn) error {
		// In a transaction, because the session may be a pooler's.
		if err := conn.PgConn().Exec(ctx, "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0").Close(); err != nil {
			return err
		}
		// All names are qualified: the search path is still the role's.
		return conn.QueryRow(ctx, `
			SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
			       pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_encoding'),
			       pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'),
			       pg_catalog.current_schemas(false)::pg_catalog.text[]`, pgx.QueryExecModeExec).
			Scan(&pid, &version, &shown, &encoding, &standby, &admin, &path)
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	defer func() { _ = conn.PgConn().Exec(ctx, "ROLLBACK").Close() }()
	switch {
	case version < minServerVersion:
		return nil, fmt.Errorf("the database runs PostgreSQL %s, reactor needs 15 or newer: upgrade the server", shown)
	case encoding != "UTF8":
		return nil, fmt.Errorf("the database's encoding is %s, MQTT needs UTF8: create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", encoding)
	case standby, admin == "on":
		return nil, errReadOnly
	}
	s.pooled = uint32(pid) != conn.PgConn().PID()
	if s.direct = !s.pooled; s.pooled {
		s.log.Info("the database URL leads through a pooler: each statement is a transaction with its own settings")
	}
	return path, nil
}

// findTable finds the table of the deployment. If our search path leads to another table of the
// same shape, that is an error: jobs that applications insert there would never be published.
func (s *Source) findTable(ctx context.Context, path []string) (table, error) {
	var (
		schema  string
		name    string
		current bool // of version 5
	)
	err := s.control.row(ctx, `
		SELECT coalesce(jobs_schema, ''), coalesce(to_jsonb(d) ->> 'jobs_table', ''), to_regclass('reactor.instances') IS NULL OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('reactor.instances') AND attname = 'shard_hints')
		       AND (to_regclass('reactor.in_flight') IS NULL OR to_regclass('reactor.in_flight_lane_batch') IS NOT NULL)
		  FROM reactor.deployment d`, nil, &schema, &name, &current)
	switch code := sqlState(err); {
	case code == pgerrcode.UndefinedTable, code == pgerrcode.InvalidSchemaName, code == pgerrcode.UndefinedColumn, errors.Is(err, pgx.ErrNoRows), err == nil && (schema == "" || !current):
		return table{}, errNoSchema
	case code == pgerrcode.InsufficientPrivilege:
		return table{}, s.lacksRights(ctx)
	case err != nil:
		return table{}, err
	}
	setDefault(&name, naming.DefaultTable) // a version before 6 records none
	if path != nil {                       // at the start; later the owner of the table may move it
		if err := compareRecorded(s.names, schema, name); err != nil {
			return table{}, err
		}
	}
	type found struct {
		Schema              string
		Tree, Hidden, Ruled bool
		Ours, Sharded       bool
		Missing, Zoneless   []string
	}
	var list []found
	err = s.control.rows(ctx, `
		SELECT n.nspname, c.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
		       row_security_active(c.oid), EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type = '2'),
		       EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'shard' AND NOT attisdropped),
		       EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'shard' AND attgenerated = 's'),
		       ARRAY(SELECT name FROM unnest($2::text[]) AS name WHERE NOT EXISTS (
		             SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = name AND NOT attisdropped)),
		       ARRAY(SELECT attname::text FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = c.oid AND attname IN ('fire_at', 'expires_at') AND NOT attisdropped
		                AND 'timestamptz'::regtype::oid <> ALL (ARRAY[atttypid, typbasetype]) ORDER BY attnum)
		  FROM unnest($1::text[]) WITH ORDINALITY AS place (schema, position)
		  JOIN pg_namespace n ON n.nspname = place.schema
		  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'jobs' AND c.relkind IN ('r', 'p')
		 ORDER BY position`, []any{append(slices.Clone(path), schema), slices.Concat(oldColumns, newColumns)},
		func(rows pgx.Rows) (err error) {
			list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[found])
			return err
		})
	if err != nil {
		return table{}, err
	}
	at := slices.IndexFunc(list, func(f found) bool { return f.Schema == schema })
	if at < 0 {
		if err := s.findMovedTable(ctx, schema); err != nil {
			return table{}, err
		}
		return s.findTable(ctx, path)
	}
	if err := s.refuseSecondTable(ctx, schema); err != nil {
		return table{}, err
	}
	// Applications that insert by the name alone, and so into another table, are forgotten: except where the
	// name of the table was given with its schema, or the other one has a deployment of its own.
	second := list[0].Schema != schema && list[0].Ours && s.names.Home() == ""
	if second {
		another, err := s.ofOtherDeployment(ctx, list[0].Schema)
		if err != nil {
			return table{}, err
		}
		second = !another
	}
	switch {
	case ofEarlierVersion(list[at].Missing):
		return table{}, errNoSchema
	case len(list[at].Missing) > 0:
		dropped := runRepair
		if keptInJobs(list[at].Missing) {
			dropped = restoreIt
		}
		return table{}, fmt.Errorf("the table %s has no column %s any more: if it was renamed, give it its name back (ALTER TABLE %[1]s RENAME COLUMN …); if it was dropped, %[3]s", qualified(s.names, schema), strings.Join(list[at].Missing, ", "), dropped)
	case len(list[at].Zoneless) > 0:
		return table{}, fmt.Errorf("the column %s of the table %s is no timestamptz any more: what it says would depend on the time zone of each session, and jobs would be early or late: run %s", list[at].Zoneless[0], qualified(s.names, schema), withTimeZone(qualified(s.names, schema), list[at].Zoneless[0]))
	case !list[at].Sharded:
		return table{}, fmt.Errorf("the column shard of %s is not generated, as in a table made by CREATE TABLE AS, and jobs without it would never be found: rename the table, run `reactor migrate up` to create a new one, and copy the jobs", qualified(s.names, schema))
	case second:
		return table{}, fmt.Errorf("there are two tables of jobs: this deployment is about %s, and the search path leads to %s, whose rows nobody would publish: drop the one that is not used, or make it the table of another deployment (pgsource.Config.Schema and pgsource.Config.JobsTable)",
			qualified(s.names, schema), qualified(s.names, list[0].Schema))
	case list[at].Hidden:
		return table{}, rowSecurityError(qualified(s.names, schema))
	case list[at].Ruled:
		return table{}, fmt.Errorf("a rule ON UPDATE on %s would rewrite every claim, which PostgreSQL does not allow: drop the rule, a trigger can do the same", qualified(s.names, schema))
	}
	return newTable(s.names, schema, list[at].Tree), s.bindOrdering(ctx, schema)
}

// oldColumns are the columns of the table that our statements name, and that all versions of the schema have.
var oldColumns = []string{"id", "topic", "payload", "fire_at", "expires_at", "processed", "processed_at", "shard"}

// newColumns are those that earlier versions lack: claim is there since version 3, the others since version 6.
var newColumns = []string{
	"claim", "key", "payload_bytes", "qos", "retain", "content_type", "response_topic", "correlation_data", "headers",
	"ordering_key", "schedule_id", "occurrence_at",
}

// ofEarlierVersion reports whether a table that lacks these columns is one of an earlier version, rather than one
// from which somebody has dropped a column.
func ofEarlierVersion(missing []string) bool {
	isOld := func(name string) bool { return slices.Contains(oldColumns, name) }
	return (slices.Contains(missing, "claim") || slices.Contains(missing, "key")) && !slices.ContainsFunc(missing, isOld)
}

// findMovedTable finds the table where somebody has renamed its schema, or moved the table to
// another one, and records the new place. The table is recognized by our triggers or publications.
// Running instances find it when they check the table. One statement records the place: if we crash
// before it, the next start searches again; if several instances find the table at once, the first
// records it and the others change nothing.
func (s *Source) findMovedTable(ctx context.Context, was string) error {
	var schemas, tables []string
	if err := s.control.row(ctx, `
		SELECT coalesce(array_agg(nspname::text), '{}'), coalesce(array_agg(relname::text), '{}')
		  FROM (SELECT DISTINCT nspname, relname
		          FROM (SELECT tgrelid FROM pg_trigger WHERE tgfoid = to_regproc('reactor.announce_jobs') AND tgparentid = 0
		                UNION
		                SELECT prrelid FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
		                 WHERE pubname IN ('reactor_jobs_inserted', 'reactor_jobs_updated')
		                   AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = prrelid)) AS known (relid)
		          JOIN pg_class c ON c.oid = relid JOIN pg_namespace n ON n.oid = relnamespace) AS place`, nil, &schemas, &tables); err != nil {
		return err
	}
	switch {
	case len(tables) == 0:
		return fmt.Errorf("the table %s, which this deployment is about, is not there: restore it, or run `reactor migrate up` to create it again", qualified(s.names, was))
	case len(tables) > 1 || tables[0] != s.names.Table():
		list := make([]string, len(tables))
		for i := range tables {
			list[i] = pgx.Identifier{schemas[i], tables[i]}.Sanitize()
		}
		return fmt.Errorf("the table %s, which this deployment is about, is not there, and %s has its triggers, or is in its publications: rename that one to %s again, or drop those and run `reactor migrate up` to create a new table", qualified(s.names, was), strings.Join(list, " and "), s.names.Table())
	}
	if s.examining {
		return explained(errTableMoved, "the table %s has moved to %s, and nothing records that yet: the next start of an instance does", qualified(s.names, was), qualified(s.names, schemas[0]))
	}
	s.log.Warn("the table of jobs has moved", "from", qualified(s.names, was), "to", qualified(s.names, schemas[0]))
	return s.control.exec(ctx, "UPDATE reactor.deployment SET jobs_schema = $1 WHERE jobs_schema = $2", schemas[0], was)
}

// errHidden: see rowSecurityError.
var errHidden = errors.New("row-level security hides rows")

// rowSecurityError is for a table of which our role may not see all rows.
func rowSecurityError(name string) error {
	return explained(errHidden, "row-level security hides rows of %s from this role, and nobody would publish those jobs: run ALTER ROLE … BYPASSRLS as a superuser, or ALTER TABLE %s DISABLE ROW LEVEL SECURITY", name, name)
}

// refuseSecondTable looks for other tables that announce their jobs to this deployment: versions
// before 3 created triggers in every schema that they were pointed to. Nobody would publish those
// jobs. Partitions and inheritance children of the table belong to it.
func (s *Source) refuseSecondTable(ctx context.Context, schema string) error {
	var other string
	err := s.control.row(ctx, `
		WITH RECURSIVE tree (oid) AS (
		    SELECT to_regclass($1)::oid UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
		)
		SELECT coalesce(min(c.oid::regclass::text), '') FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		 WHERE t.tgfoid = to_regproc('reactor.announce_jobs') AND NOT EXISTS (SELECT FROM tree WHERE tree.oid = c.oid)`,
		[]any{qualified(s.names, schema)}, &other)
	if err == nil && other != "" {
		err = fmt.Errorf("there are two tables of jobs: this deployment is about %s, and nobody would publish the rows of %s: drop the one that is not used, or its triggers, or make it the table of another deployment (pgsource.Config.Schema and pgsource.Config.JobsTable)", qualified(s.names, schema), other)
	}
	return err
}

// warnOfTriggers warns of triggers that others have created on the table. They run inside our
// claims, where the search path is ours: a function that names its tables without their schemas,
// and sets no search path itself, would make every claim fail.
func (s *Source) warnOfTriggers(ctx context.Context) error {
	list, err := s.triggersOfOthers(ctx)
	if err == nil && len(list) > 0 {
		s.log.Warn("triggers of others run when reactor claims a job, with the search path pg_catalog: if they name a table or a function without its schema, run ALTER FUNCTION … SET search_path = …",
			"table", s.jobs().name, "triggers", list)
	}
	return err
}

func (s *Source) triggersOfOthers(ctx context.Context) (list []string, err error) {
	err = s.control.row(ctx, `
		SELECT coalesce(array_agg(tgname || ' (' || p.oid::regprocedure::text || ')' ORDER BY tgname), '{}')
		  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
		 WHERE t.tgrelid = $1::regclass AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0
		   AND l.lanname NOT IN ('c', 'internal')
		   AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS set WHERE starts_with(set, 'search_path='))`,
		[]any{s.jobs().name}, &list)
	return list, err
}

// errNoSchema: the schema in sql/ has not been applied, or only an earlier version of it.
var errNoSchema = errors.New("the tables of reactor are not in this database, or of an earlier version: run `reactor migrate up` or, where that finds nothing to do, `reactor migrate up --repair`, as the owner of the database")

// checkRights makes sure that the role has all rights that our statements need.
func (s *Source) checkRights(ctx context.Context) error {
	var complete bool
	err := s.control.row(ctx, `
		SELECT has_table_privilege($1::regclass, 'SELECT') AND has_table_privilege($1::regclass, 'UPDATE')
		   AND (SELECT count(c.oid) = count(*) AND bool_and(has_table_privilege(c.oid, needed.privilege) AND NOT row_security_active(c.oid))
		          FROM unnest($2::text[], $3::text[]) AS needed (name, privilege)
		          LEFT JOIN pg_class c ON c.relname = needed.name AND c.relnamespace = 'reactor'::regnamespace WHERE needed.name !~ '^[*]' AND needed.name <> '`+ofOrder+`')
		   AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'reactor'::regnamespace AND proname = ANY (`+claimFunctions+`) AND NOT has_function_privilege(oid, 'EXECUTE'))`,
		[]any{s.jobs().name, toPublish.names(), toPublish.privileges()}, &complete)
	if err == nil && !complete || sqlState(err) == pgerrcode.InsufficientPrivilege {
		return s.lacksRights(ctx)
	}
	return err
}

// errLackOfRights: see lacksRights.
var errLackOfRights = errors.New("the role lacks rights")

// lacksRights returns why statements of ours are refused, or hide rows.
func (s *Source) lacksRights(ctx context.Context) error {
	// A missing table also looks like a lack of rights.
	var missing string
	if err := s.control.row(ctx, `
		SELECT coalesce(string_agg('reactor.' || name, ', '), '')
		  FROM unnest('{deployment,instances,shards,lanes,in_flight,journal_starts,retries,failed_jobs}'::text[]) AS name
		 WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'reactor' AND c.relname = name)`,
		nil, &missing); err != nil {
		return err
	}
	if missing != "" {
		return fmt.Errorf("%s is not there: restore it, or "+runRepair+", which creates it again", missing)
	}
	// A row-level security policy on a table of our own also looks like a lack of rights.
	var covered *string
	if err := s.control.row(ctx, `
		SELECT min(c.oid::regclass::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'reactor' AND c.relkind = 'r' AND row_security_active(c.oid)`, nil, &covered); err != nil {
		return err
	}
	if covered != nil {
		return rowSecurityError(*covered)
	}
	var grants, role string
	needs := toPublish.and(toSeeVersions)
	if err := s.control.row(ctx, "SELECT missing, quote_ident(current_user) FROM ("+missingRightsSQL+") AS lacking (missing)", []any{needs.names(), needs.privileges()}, &grants, &role); err != nil {
		return err
	}
	return explained(errLackOfRights, "role %s lacks rights that an instance needs: as their owner run %s", role, grants)
}

// sqlState returns the SQLSTATE of an error, or "" if the server sent none.
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
