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

// Settings arrive from anywhere: from the role, the database, the server, the URL. What
// our promises rest on is set by ourselves, on every connection, and looked at again.

// setting is a parameter of the server and the value that we work with.
type setting struct{ name, value string }

type settings []setting

// pinned are set on every connection, in this order.
//
// search_path comes before all that calls anything: that is PostgreSQL's own, and every table
// is named with its schema. Isolation: a claim that is resolved with a snapshot from before its
// commit would be taken for undone, and what it has marked would never be published.
// row_security: what a policy hides from us would be silence; like this it is an error.
// quote_all_identifiers is how a search path is read back.
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
	// A claim sorts its rows and keeps them for a moment; temp_file_limit may forbid what does
	// not fit.
	{"work_mem", "4MB"},
	// Every statement of ours goes by an index. Plans made while the table was
	// empty, or before it was analyzed, must not turn to scanning it.
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_indexscan", "on"},
	{"enable_tidscan", "on"},
	{"enable_nestloop", "on"},
	{"plan_cache_mode", "auto"},
	{"jit", "off"},
	{"max_parallel_workers_per_gather", "0"},
}

// ofMigration are set for the transaction of a migration. It finds the table jobs by the
// search path of the role, and leaves it alone until then.
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

// timeouts are those of a connection. Nobody may make us wait for long: a claim skips
// locked rows, and what else we lock is ours. Frozen inside a transaction we hold others
// up no longer than it takes them to give us up.
func timeouts(statement, lock, idle time.Duration) settings {
	ms := func(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
	return settings{
		{"statement_timeout", ms(statement)},
		{"lock_timeout", ms(lock)},
		{"idle_in_transaction_session_timeout", ms(idle)},
	}
}

// Commits are durable whatever the role's default says; remote_apply is more, and stays.
const durable = `CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END`

// sessionSQL makes the settings for as long as the connection lives.
func (l settings) sessionSQL() string {
	var b strings.Builder
	// Before anything that takes longer than a role's default may allow. The server counts
	// anew for each statement of a string.
	b.WriteString("SET statement_timeout = 0; ")
	for _, set := range l {
		fmt.Fprintf(&b, "SET %s = %s; ", set.name, set.literal())
	}
	fmt.Fprintf(&b, "SELECT set_config('synchronous_commit', %s, false); ", durable)
	// Only a superuser may set this one, even to what it is. PostgreSQL 17 has that one.
	b.WriteString("SELECT set_config(name, CASE name WHEN 'transaction_timeout' THEN '0' ELSE 'origin' END, false) FROM pg_settings" +
		" WHERE name = 'transaction_timeout' OR name = 'session_replication_role' AND setting = 'replica'")
	return b.String()
}

// localSQL makes them for a transaction, but for those that a session alone can have.
func (l settings) localSQL() string {
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
	return "SELECT " + strings.Join(calls, ", ") + `, pg_catalog.set_config('synchronous_commit',
		CASE WHEN pg_catalog.texteq(pg_catalog.current_setting('synchronous_commit'), 'remote_apply') THEN 'remote_apply' ELSE 'on' END, true)`
}

// literal is the value in SQL. A list is not to be quoted as one word.
func (s setting) literal() string {
	if s.name == "search_path" {
		return s.value
	}
	return "'" + s.value + "'"
}

// checked are the settings without which a promise would be void, and what they may be.
// They are read back, in case that a proxy swallows a SET, or that nobody could make it.
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

// greet makes a new connection ours: it pins the settings, and makes sure that they hold.
func (s *Source) greet(ctx context.Context, conn *pgx.Conn, own settings) error {
	if s.pooled {
		return hold(ctx, conn, ofSession)
	}
	return pin(ctx, conn, own)
}

// pin makes the settings of a session that is ours alone.
func pin(ctx context.Context, conn *pgx.Conn, own settings) error {
	if err := conn.PgConn().Exec(ctx, append(slices.Clone(pinned), own...).sessionSQL()).Close(); err != nil {
		return explainSetting(err)
	}
	return hold(ctx, conn, slices.Sorted(maps.Keys(checked)))
}

// hold makes sure that settings are what they must be.
func hold(ctx context.Context, conn *pgx.Conn, names []string) error {
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

// errReadOnly is a connection that leads to a server that takes no writes: a standby, a
// primary that was deposed, or one that its owner has switched to reading. It is of no
// use to us, and the address may lead elsewhere next time.
var errReadOnly = errors.New("the database is read-only (a standby, or default_transaction_read_only is on): give the address of the primary, or several hosts and target_session_attrs=read-write in the database URL, or switch it back")

// explainSetting names the setting that we may not make.
func explainSetting(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && strings.Contains(pgErr.Message, "session_replication_role") {
		return explained(err, "session_replication_role is replica for this role or database, which switches triggers off, and only a superuser can change that: run ALTER ROLE … RESET session_replication_role and ALTER DATABASE … RESET session_replication_role")
	}
	return err
}
