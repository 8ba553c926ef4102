package pgsource

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Access to unexported parts, for the tests outside of the package.

// Pinned are the names of all settings that reactor makes.
func Pinned() []string {
	names := []string{"synchronous_commit", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
	for _, set := range pinned {
		names = append(names, set.name)
	}
	return names
}

// Settings reads the effective settings on each kind of connection, in the way in which its
// statements run there.
func (s *Source) Settings(t *testing.T, ctx context.Context) map[string]map[string]string {
	t.Helper()
	const sql = "SELECT name, current_setting(name) FROM unnest($1::text[]) AS name"
	names := append(Pinned(), "transaction_isolation")
	kinds := map[string]map[string]string{}
	read := func(kind string) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			kinds[kind] = map[string]string{}
			var name, value string
			_, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
				kinds[kind][name] = value
				return nil
			})
			return err
		}
	}
	for kind, db := range map[string]*database{"work": s.work, "hot": s.hot, "control": s.control, "background": s.background} {
		if err := db.rows(ctx, sql, []any{names}, read(kind)); err != nil {
			t.Fatal(err)
		}
		if err := db.tx(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, sql, names)
			if err != nil {
				return err
			}
			return read(kind + ", in a transaction")(rows)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if s.pooled {
		return kinds
	}
	conn, err := s.connectListener(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, names)
	if err == nil {
		err = read("listen")(rows)
	}
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// Pooled tells whether a pooler was found.
func (s *Source) Pooled() bool { return s.pooled }

// Purge runs purgeRetries.
func (s *Source) Purge(ctx context.Context) error { return s.purgeRetries(ctx) }

// ClaimOutcome classifies the error of a claim.
var ClaimOutcome = claimOutcome

// ShardOf is the shard that the WAL feed computes.
var ShardOf = shardOf

// Expect opens connections for claims, loads and settlements.
func (s *Source) Expect(connections int) { s.work.pool.expect(connections) }

// MakeOccurrences makes what is due of some schedules, in one transaction.
func (s *Source) MakeOccurrences(ctx context.Context) error {
	_, err := s.makeOccurrences(ctx, driver.DistantPast)
	return err
}

// Speak changes the protocols that the source understands.
func (s *Source) Speak(p driver.Protocols) { s.protocols = p }

// NeededBy returns which rights a role of Roles has to have for what it is for, as TABLE and its privileges, and those
// of ofTables that it gets.
func NeededBy(role string) (needs, gets map[string]string) {
	var list rights
	switch role {
	case "instance":
		list = toPublish.and(toMakeJobs).and(toPurge)
	case "producer":
		list = toCancel.and(rights{{ofJobs, everything}})
	case "viewer":
		list = toShow.and(toLook).and(toSeeStatus).and(toSeeSchedules).and(toSeePartitions).and(rights{{"schema_version", "SELECT"}})
	}
	needs, gets = map[string]string{}, map[string]string{}
	for _, r := range list {
		if r.table != ofFunctions && r.table != ofOrder {
			needs[r.table] += r.privileges + ", "
		}
	}
	for _, t := range ofTables {
		gets[t.table] = map[string]string{"instance": t.instance, "producer": t.producer, "viewer": t.viewer}[role]
	}
	return needs, gets
}

// FailOver has the source believe that it has seen a server on the next timeline, and that a lane has read its journal
// there. Its connections lead to the one before.
func (s *Source) FailOver(t *testing.T, lane int32) {
	t.Helper()
	s.timelines.mu.Lock()
	next := s.timelines.latest
	s.timelines.mu.Unlock()
	next.timeline++
	if _, _, era, err := s.timelines.see(next); err != nil || s.timelines.journalRead(lane, era) != nil {
		t.Fatal(err)
	}
}

// ColumnsOfSchema returns the types of the columns of the schema, by TABLE.COLUMN, and which of them Repair makes again.
func ColumnsOfSchema() (types map[string]string, added map[string][]string) {
	types, added = map[string]string{}, map[string][]string{}
	for _, t := range columnsOfSchema {
		for _, part := range []string{t.kept, t.added} {
			for column := range strings.SplitSeq(part, ", ") {
				name, of, ok := strings.Cut(column, " ")
				if !ok {
					continue
				}
				types[t.table+"."+name] = of
				if part == t.added {
					added[t.table] = append(added[t.table], name)
				}
			}
		}
	}
	return types, added
}

// OnAside makes the publications, and looks after the partitions, over connections of their own.
func (s *Source) OnAside(ctx context.Context) (publish, maintain error) {
	return s.makePublications(ctx), Partitions{DatabaseURL: s.cfg.DatabaseURL, by: s}.Maintain(ctx)
}

// LookAt has the source look where a connection leads, as before it is used.
func (s *Source) LookAt(t *testing.T, url string) error {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := s.timelines.look(t.Context(), conn); err != nil {
		return err
	}
	return s.arrive(conn)
}

// FutureOf is Future with another number of rows.
func (a *JobsAdmin) FutureOf(ctx context.Context, step time.Duration, steps int, rows int64) (Future, error) {
	return a.future(ctx, step, steps, rows)
}
