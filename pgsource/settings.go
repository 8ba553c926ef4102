package pgsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The role, the database, the server and the URL may all set parameters. We set those that our
// promises depend on ourselves, on every connection, and read them back.

// setting is a parameter of the server and the value that we work with.
type setting struct{ name, value string }

type settings []setting

// pinned are set on every connection, in this order.
//
// search_path comes before anything that calls a function: it contains only PostgreSQL's own
// schema, and our statements qualify every table. Isolation: if a claim is resolved with a snapshot
// from before its commit, it is taken for undone, and the jobs that it has marked are never
// published. row_security: off turns rows that a policy would silently hide into an error.
// quote_all_identifiers determines how a search path is read back.
var pinned = settings{
	{"quote_all_identifiers", "off"},
	{"search_path", "pg_catalog, pg_temp"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_deferrable", "off"},
	{"row_security", "off"},
	{"client_encoding", "UTF8"},
	{"idle_session_timeout", "0"},
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"array_nulls", "on"},
	// A claim sorts its rows in memory; with less memory it would need a temporary file, which
	// temp_file_limit may forbid.
	{"work_mem", "4MB"},
	// Every statement of ours uses an index. A plan that was made while the table was empty, or
	// before it was analyzed, must not use a sequential scan.
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_indexscan", "on"},
	{"enable_tidscan", "on"},
	{"enable_nestloop", "on"},
	{"plan_cache_mode", "auto"},
	{"jit", "off"},
	{"max_parallel_workers_per_gather", "0"},
}

// ofMigration are set for the transaction of a migration. The migration finds the table jobs by the
// role's search path, and does not change that path until it has found it.
var ofMigration = settings{
	{"statement_timeout", "0"}, // waiting for another migration may take long; a change of the schema, too
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"row_security", "off"},
	{"synchronous_commit", "on"},
	{"quote_all_identifiers", "off"},
	{"standard_conforming_strings", "on"},
	{"DateStyle", "ISO, YMD"},
	{"TimeZone", "UTC"}, // the versions' time is a timestamp without one
	{"IntervalStyle", "postgres"},
	{"array_nulls", "on"},
	{"work_mem", "4MB"},
}

// beginSQL begins a transaction with the settings.
func (l settings) beginSQL() string {
	var b strings.Builder
	b.WriteString("BEGIN ISOLATION LEVEL READ COMMITTED")
	for _, set := range l {
		fmt.Fprintf(&b, "; SET LOCAL %s = %s", set.name, set.literal())
	}
	return b.String()
}

// timeouts are the time limits of a connection. Nobody may make us wait for long: a claim skips
// locked rows, and what else we lock is our own. And if we freeze inside a transaction, we block
// others no longer than they need to depose us.
func timeouts(statement, lock, idle time.Duration) settings {
	ms := func(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
	return settings{
		{"statement_timeout", ms(statement)},
		{"lock_timeout", ms(lock)},
		{"idle_in_transaction_session_timeout", ms(idle)},
	}
}

// durable makes commits durable whatever the role's default is. remote_apply is stronger, and
// stays.
const durable = `CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END`

// sessionSQL applies the settings for as long as the connection lives.
func (l settings) sessionSQL() string {
	var b strings.Builder
	// First of all, because a later statement may take longer than the role's default allows. The
	// server measures the timeout for each statement of the text.
	b.WriteString("SET statement_timeout = 0; ")
	for _, set := range l {
		fmt.Fprintf(&b, "SET %s = %s; ", set.name, set.literal())
	}
	fmt.Fprintf(&b, "SELECT set_config('synchronous_commit', %s, false); ", durable)
	// Only a superuser may set session_replication_role, even to its current value.
	// transaction_timeout exists from PostgreSQL 17 on.
	b.WriteString("SELECT set_config(name, CASE name WHEN 'transaction_timeout' THEN '0' ELSE 'origin' END, false) FROM pg_settings" +
		" WHERE name = 'transaction_timeout' OR name = 'session_replication_role' AND setting = 'replica'")
	return b.String()
}

// localSQL applies the settings for one transaction, except those that only a session can have. With
// asynchronous its commit does not wait for the disk.
func (l settings) localSQL(asynchronous bool) string {
	calls := make([]string, 0, len(l)+1)
	for _, set := range l {
		switch set.name {
		case "search_path":
			calls = slices.Insert(calls, 0, "pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)")
		case "client_encoding", "default_transaction_isolation", "default_transaction_deferrable", "idle_session_timeout":
		default:
			calls = append(calls, fmt.Sprintf("pg_catalog.set_config('%s', %s, true)", set.name, set.literal()))
		}
	}
	if asynchronous {
		return "SELECT " + strings.Join(calls, ", ") + ", pg_catalog.set_config('synchronous_commit', 'off', true)"
	}
	return "SELECT " + strings.Join(calls, ", ") + `, pg_catalog.set_config('synchronous_commit',
		CASE WHEN pg_catalog.texteq(pg_catalog.current_setting('synchronous_commit'), 'remote_apply') THEN 'remote_apply' ELSE 'on' END, true)`
}

// literal returns the value in SQL. A list must not be quoted as one word.
func (s setting) literal() string {
	if s.name == "search_path" {
		return s.value
	}
	return "'" + s.value + "'"
}

// checked are the settings that our promises depend on, and the values that they may have. They are
// read back, in case a proxy ignores a SET, or nobody may change the setting.
var checked = map[string][]string{
	"default_transaction_isolation": {"read committed"},
	"session_replication_role":      {"origin", "local"},
	"client_encoding":               {"UTF8"},
	"synchronous_commit":            {"on", "remote_apply"},
	"search_path":                   {"pg_catalog, pg_temp"},
	"row_security":                  {"off"},
	"transaction_read_only":         {"off"},
}

// ofSession are those of them that a transaction behind a pooler does not set itself.
var ofSession = []string{"session_replication_role", "client_encoding", "transaction_read_only"}

// setUpSession pins the settings of a new connection, and verifies them.
func (s *Source) setUpSession(ctx context.Context, conn *pgx.Conn, own settings) error {
	if s.pooled {
		return verifySettings(ctx, conn, ofSession)
	}
	return pinSettings(ctx, conn, own)
}

// pinSettings applies the settings to a session that is ours alone, and verifies them.
func pinSettings(ctx context.Context, conn *pgx.Conn, own settings) error {
	if err := conn.PgConn().Exec(ctx, append(slices.Clone(pinned), own...).sessionSQL()).Close(); err != nil {
		return explainSetting(err)
	}
	return verifySettings(ctx, conn, slices.Sorted(maps.Keys(checked)))
}

// verifySettings makes sure that settings have one of their required values.
func verifySettings(ctx context.Context, conn *pgx.Conn, names []string) error {
	values := make([]string, len(names))
	calls, into := make([]string, len(names)), make([]any, len(names))
	for i, name := range names {
		calls[i], into[i] = "pg_catalog.current_setting('"+name+"')", &values[i]
	}
	if err := conn.QueryRow(ctx, "SELECT "+strings.Join(calls, ", ")).Scan(into...); err != nil {
		return err
	}
	for i, name := range names {
		switch {
		case slices.Contains(checked[name], values[i]):
		case name == "transaction_read_only":
			return errReadOnly
		default:
			return fmt.Errorf("the setting %s is %q for this role or database and cannot be changed by reactor, which needs %q: run ALTER ROLE … RESET %s and ALTER DATABASE … RESET %s as a superuser",
				name, values[i], checked[name][0], name, name)
		}
	}
	return nil
}

// errReadOnly: the connection leads to a server that takes no writes: a standby, a former primary,
// or a server that its owner has made read-only. We cannot use it, but the same address may lead to
// another server next time.
var errReadOnly = errors.New("the database is read-only (a standby, or default_transaction_read_only is on): give the address of the primary, or several hosts and target_session_attrs=read-write in the database URL, or switch it back")

// explainSetting names the setting that our role may not change.
func explainSetting(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && strings.Contains(pgErr.Message, "session_replication_role") {
		return explained(err, "session_replication_role is replica for this role or database, which switches triggers off, and only a superuser can change that: run ALTER ROLE … RESET session_replication_role and ALTER DATABASE … RESET session_replication_role")
	}
	return err
}
