package pgsource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Examine asks everything about the database that an instance with this configuration depends on, and
// returns an answer to each question, in the order in which a new user meets them. It changes nothing: its
// transactions are read-only, except that it sends one notification, to a channel of ours. A role with few
// rights is enough; what it may not ask is Unknown. If a question has no answer that the others need, such
// as where the table is, the last finding says so.
//
// The questions are those of Open, by the same code, and further ones about what makes a database slow after
// a while. The error is a *driver.ConfigError.
func Examine(ctx context.Context, cfg Config) ([]driver.Finding, error) {
	return examine(ctx, cfg, longSnapshot)
}

// longSnapshot is how old a transaction may be before it is reported. Vacuum removes no row that has died
// since the oldest one began.
const longSnapshot = 5 * time.Minute

func examine(ctx context.Context, cfg Config, long time.Duration) ([]driver.Finding, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s.examining = true
	defer s.Close()
	x := &examination{Source: s, long: long}
	defer x.close()
	x.run(ctx)
	return x.list, nil
}

// examination is one call of Examine.
type examination struct {
	*Source // partly open: control, and once it is found the table
	long    time.Duration
	role    *pgx.Conn // a session as the role, the database and the URL make it
	path    []string  // the search path that the role has
	list    []driver.Finding
	// complete: all versions of the schema are recorded as applied.
	complete bool
}

func (x *examination) run(ctx context.Context) {
	if !x.reach(ctx) || !x.server(ctx) || !x.open(ctx) {
		x.add("everything else", driver.Unknown, "the questions behind this one were not asked", "")
		return
	}
	if !x.schema(ctx) {
		x.settings(ctx)
		x.clock(ctx)
		x.limits(ctx)
		x.add("everything else", driver.Unknown, "the questions about the table were not asked", "")
		return
	}
	x.deployment(ctx)
	x.rowSecurity(ctx)
	x.shape(ctx)
	x.indexes(ctx)
	p, err := x.provision(ctx)
	if err != nil {
		x.failed("triggers", err)
	} else {
		x.triggers(ctx, p)
		x.twoPhase(ctx, p)
		x.others(ctx)
		x.notification(ctx, p)
	}
	x.settings(ctx)
	x.clock(ctx)
	x.autovacuum(ctx)
	x.deadRows(ctx)
	x.oldestSnapshot(ctx)
	x.queue(ctx)
	x.limits(ctx)
	if err == nil {
		x.walFeed(ctx, p)
	}
}

func (x *examination) add(check string, verdict driver.Verdict, what, remedy string) {
	x.list = append(x.list, driver.Finding{Check: check, Verdict: verdict, What: what, Remedy: remedy})
}

// problem adds a finding for an error that says what is wrong, and what to do.
func (x *examination) problem(check string, err error) {
	x.list = append(x.list, driver.FindingOf(check, driver.Problem, explain(err)))
}

// failed adds a finding for a question that could not be asked.
func (x *examination) failed(check string, err error) {
	f := driver.FindingOf(check, driver.Unknown, explain(err))
	if sqlState(err) == pgerrcode.InsufficientPrivilege {
		f.What, f.Remedy = "this role may not ask: "+statementText(err), "ask as the owner of the tables, or a superuser"
	}
	x.list = append(x.list, f)
}

func (x *examination) close() {
	if x.role != nil {
		_ = x.role.Close(context.Background()) // boundedClose bounds it
	}
}

// reach connects with nothing but what the URL says.
func (x *examination) reach(ctx context.Context) bool {
	const check = "database"
	cfg, err := pgx.ParseConfig(x.cfg.DatabaseURL)
	if err != nil {
		x.problem(check, redacted(err))
		return false
	}
	x.configure(cfg)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler loses named statements
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var role, database string
	connect := func() (*pgx.Conn, error) {
		return connectWithoutLimits(ctx, cfg, x.hosts.connect, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "SELECT session_user, pg_catalog.current_database()").Scan(&role, &database)
		})
	}
	if x.role, err = connect(); errors.Is(err, errReadOnly) {
		cfg.ValidateConnect = nil // that it takes no writes is the answer to the next question
		x.role, err = connect()
	}
	if err != nil {
		x.problem(check, err)
		return false
	}
	how := "without TLS"
	if _, secure := x.role.PgConn().Conn().(*tls.Conn); secure {
		how = "with TLS"
	}
	x.add(check, driver.Fine, fmt.Sprintf("connected to %q at %s as role %q, %s", database, x.role.PgConn().Conn().RemoteAddr(), role, how), "")
	return true
}

// server asks whether an instance can work on such a server.
func (x *examination) server(ctx context.Context) bool {
	path, err := x.inspectServer(ctx)
	if err != nil {
		x.problem("server", err)
		return false
	}
	x.path = path
	what := "PostgreSQL " + x.role.PgConn().ParameterStatus("server_version") + ", UTF8, takes writes"
	if x.pooled {
		what += "; a pooler is in between"
	}
	x.add("server", driver.Fine, what, "")
	return true
}

// open opens the connection for the other questions. It fails if a setting cannot be made that an instance
// depends on.
func (x *examination) open(ctx context.Context) (ok bool) {
	db, err := x.Source.open(ctx, use{
		conns: 1, timeout: examineTimeout + serverAnswerMargin,
		settings: append(timeouts(examineTimeout, tableLockTimeout, examineTimeout), x.onlyReads()...),
		warm: func(ctx context.Context, conn *pgx.Conn) error { // not behind a pooler
			return conn.PgConn().Exec(ctx, "SET default_transaction_read_only = on").Close()
		},
	})
	if err != nil {
		x.problem("settings", err)
		return false
	}
	x.control, x.background = db, db
	return true
}

// onlyReads makes each transaction behind a pooler read-only; elsewhere the session is.
func (x *examination) onlyReads() settings {
	if !x.pooled {
		return nil
	}
	return settings{{"transaction_read_only", "on"}}
}

// examineTimeout is how long the answer to one question may take.
const examineTimeout = 5 * time.Second

// ask reads one row in the session that the role has: with its settings, except the search path and the limits.
func (x *examination) ask(ctx context.Context, sql string, args []any, into ...any) error {
	return x.inRole(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, sql, args...).Scan(into...) })
}

func (x *examination) inRole(ctx context.Context, do func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, examineTimeout, errNoAnswer)
	defer cancel()
	const begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = 0; SET LOCAL DateStyle = ISO; SET LOCAL search_path = pg_catalog, pg_temp"
	return markTimeout(ctx, pgx.BeginTxFunc(ctx, x.role, pgx.TxOptions{BeginQuery: begin}, renamed(x.names, do)))
}

// clock compares the clocks of this host and of the database.
func (x *examination) clock(ctx context.Context) {
	var offset, best time.Duration
	err := x.inRole(ctx, func(tx pgx.Tx) error {
		for range clockSamples {
			var at time.Time
			before := time.Now()
			if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at); err != nil {
				return err
			}
			trip := time.Since(before)
			if best == 0 || trip < best {
				best, offset = trip, at.Sub(before.Add(trip/2).Round(0))
			}
		}
		return nil
	})
	if err != nil {
		x.failed("clock", err)
		return
	}
	what := fmt.Sprintf("the database's clock is %v ahead of this host's (± %v), and jobs fire by the database's", offset.Round(time.Millisecond), (best / 2).Round(10*time.Microsecond))
	if offset < 0 {
		what = fmt.Sprintf("the database's clock is %v behind this host's (± %v), and jobs fire by the database's", -offset.Round(time.Millisecond), (best / 2).Round(10*time.Microsecond))
	}
	if offset.Abs() > clockFar {
		x.add("clock", driver.Warning, what, "synchronize both hosts by NTP, and have applications compute fire_at from the database's now(): the time of a host that is wrong makes jobs early or late")
		return
	}
	x.add("clock", driver.Fine, what, "")
}

const (
	// clockSamples is how often the clock is read; the shortest round trip is used.
	clockSamples = 5
	// clockFar is a difference that users of jobs notice.
	clockFar = time.Second
)

// limits compares the connections that an instance may need with those that there are.
func (x *examination) limits(ctx context.Context) {
	const check = "connections"
	want := x.cfg.MaxConns + extraConns
	if x.pooled {
		x.add(check, driver.Fine, fmt.Sprintf("the pooler's: it must let an instance have %d client connections", want), "")
		return
	}
	if err := x.checkConnections(ctx); err != nil {
		x.problem(check, err)
		return
	}
	var most, used int
	if err := x.ask(ctx, "SELECT current_setting('max_connections')::int4, (SELECT sum(numbackends)::int4 FROM pg_stat_database)", nil, &most, &used); err != nil {
		x.failed(check, err)
		return
	}
	what := fmt.Sprintf("%d of %d are in use; an instance holds %d when it is idle, and up to %d", used, most, idleConns, want)
	if most-used < want {
		x.add(check, driver.Warning, what, "raise max_connections, end idle sessions of others, or lower pgsource.Config.MaxConns")
		return
	}
	x.add(check, driver.Fine, what, "")
}

// resets names the statement that unmakes a setting of the role, the database or the server.
func (x *examination) resets(ctx context.Context, name, source string) string {
	var role, database string
	if err := x.ask(ctx, "SELECT quote_ident(session_user), quote_ident(current_database())", nil, &role, &database); err != nil {
		role, database = "…", "…"
	}
	switch source {
	case "user":
		return "run ALTER ROLE " + role + " RESET " + name
	case "database":
		return "run ALTER DATABASE " + database + " RESET " + name
	case "database user":
		return "run ALTER ROLE " + role + " IN DATABASE " + database + " RESET " + name
	case "client", "environment variable", "session":
		return "remove " + name + " from the database URL, PGOPTIONS or the pooler"
	}
	return "run ALTER SYSTEM RESET " + name + ", or change postgresql.conf, and reload the server"
}

// errTableMoved: the table has moved, which the next instance that starts records.
var errTableMoved = errors.New("has moved")
