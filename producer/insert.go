package producer

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
)

// Insert inserts jobs with one statement, and returns their ids in the order of the jobs. Either all
// jobs are inserted or none. A key that an unfired job has is refused (see [Schedule]).
func Insert(ctx context.Context, db DB, jobs ...Job) ([]int64, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	list := make([]wire, len(jobs))
	for i := range jobs {
		if err := jobs[i].check(); err != nil {
			return nil, explain(fmt.Sprintf("insert job %d of %d", i+1, len(jobs)), err)
		}
		list[i] = jobs[i].wire()
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, explain("insert jobs", err)
	}
	ids := make([]int64, 0, len(jobs))
	err = db.rows(ctx, "SELECT reactor.insert_jobs($1::pg_catalog.text::pg_catalog.json)", []any{string(text)}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	if err == nil && len(ids) != len(jobs) {
		err = fmt.Errorf("%d of %d jobs were inserted: look for a trigger on the table that silently keeps rows out", len(ids), len(jobs))
	}
	if err != nil {
		return nil, explain("insert jobs", err)
	}
	return ids, nil
}

// PgxCopier is a pgx.Tx, *pgx.Conn, *pgxpool.Pool, *pgxpool.Conn or *pgxpool.Tx.
type PgxCopier interface {
	PgxQuerier
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// columns are those of Job.arguments.
var columns = []string{
	"topic", "payload", "fire_at", "key", "expires_at", "payload_bytes", "qos", "retain", "content_type", "response_topic", "correlation_data", "headers", "ordering_key",
}

// InsertMany inserts any number of jobs by COPY, which is several times as fast as [Insert] and holds
// one job in memory at a time. It returns how many were inserted: all, or none and an error. COPY does
// not tell the ids. Give the jobs keys to change them later; unlike [Schedule] it refuses a key that
// an unfired job has. Jobs without FireAt are due when the call begins.
//
//	n, err := producer.InsertMany(ctx, tx, slices.Values(jobs))
func InsertMany(ctx context.Context, db PgxCopier, jobs iter.Seq[Job], options ...Option) (int64, error) {
	var (
		home  string
		table string
		begun time.Time
	)
	if err := Pgx(db, options...).row(ctx, "SELECT jobs_schema, jobs_table, pg_catalog.clock_timestamp() FROM reactor.deployment", nil, &home, &table, &begun); err != nil {
		return 0, explain("insert jobs", err)
	}
	next, stop := iter.Pull(jobs)
	defer stop()
	var refused error // by us; the server only hears that the COPY is given up
	number := 0
	n, err := db.CopyFrom(ctx, pgx.Identifier{home, table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		job, ok := next()
		if !ok {
			return nil, nil
		}
		number++
		if err := job.check(); err != nil {
			refused = fmt.Errorf("job %d: %w", number, err)
			return nil, refused
		}
		if job.FireAt.IsZero() {
			job.FireAt = begun
		}
		return job.arguments(), nil
	}))
	if refused != nil {
		err = refused
	}
	if err != nil {
		return 0, explain("insert jobs", err)
	}
	return n, nil
}
