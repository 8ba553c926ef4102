package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
)

// topicPrefix distinguishes the bench's jobs from others in the table.
const topicPrefix = "reactor-bench/"

// insertRows is how many rows one statement inserts.
const insertRows = 20_000

// insertBytes bounds their payloads.
const insertBytes = 256 << 20

const insertSQL = `
INSERT INTO jobs (topic, payload, fire_at)
SELECT $1 || n % $2::int, rpad('job ' || n || ' ', $3::int, '.'),
       $4::timestamptz + CASE WHEN $5::float8 > 0 THEN n / $5::float8 ELSE random() * $6::float8 END * interval '1 second'
  FROM generate_series($7::int, $8::int) AS n`

// insertion is a load that has been inserted.
type insertion struct {
	begin     time.Time // the first jobs are due then
	perSecond float64   // rows inserted
}

// insert inserts the load.
func (l Load) insert(ctx context.Context, conn *pgx.Conn) (insertion, error) {
	var begin time.Time
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&begin); err != nil {
		return insertion{}, fmt.Errorf("insert: %w", err)
	}
	begin = begin.Add(l.ahead())
	begun := time.Now()
	rows := max(1, min(insertRows, insertBytes/max(1, l.PayloadBytes)))
	for first := 1; first <= l.Jobs; first += rows {
		last := min(first+rows-1, l.Jobs)
		if _, err := conn.Exec(ctx, insertSQL, topicPrefix, l.Topics, l.PayloadBytes, begin,
			l.Rate, l.Spread.Seconds(), first, last); err != nil {
			return insertion{}, fmt.Errorf("insert: %w", err)
		}
	}
	return insertion{begin, float64(l.Jobs) / time.Since(begun).Seconds()}, nil
}

// loadCondition is met by the jobs of the load, in SQL. Ids up to after are those of jobs that
// were stored before (see store): the primary key leads past them, however many they are.
func loadCondition(after int64) string {
	return benchCondition(after) + " AND topic <> '" + besideTopic + "'"
}

// besideCondition is met by the jobs beside the load.
func besideCondition(after int64) string {
	return benchCondition(after) + " AND topic = '" + besideTopic + "'"
}

// benchCondition is met by the jobs beside it as well.
func benchCondition(after int64) string {
	return fmt.Sprintf("id > %d AND topic LIKE '%s%%'", after, topicPrefix)
}

// expected reads the jobs that meet a condition from the table, for check.Compare.
func expected(ctx context.Context, conn *pgx.Conn, condition string, knownAt time.Time) ([]check.Expected, error) {
	jobs, err := check.ExpectedFromDB(ctx, conn, condition)
	for i := range jobs {
		jobs[i].Payload = nil
		if jobs[i].Topic != besideTopic {
			jobs[i].KnownAt = knownAt
		}
	}
	return jobs, err
}

// clear removes the bench's jobs with larger ids, and their dead rows, so that each measurement
// begins with the same table.
func clear(ctx context.Context, conn *pgx.Conn, after int64) error {
	for _, sql := range []string{
		"DELETE FROM jobs WHERE " + benchCondition(after),
		"VACUUM (ANALYZE) jobs", "VACUUM reactor.in_flight",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("clear the table: %w", err)
		}
	}
	return nil
}

// checkpoint makes the server write its dirty pages, so that it does not do so during the
// measurement.
func checkpoint(ctx context.Context, conn *pgx.Conn) {
	_, _ = conn.Exec(ctx, "VACUUM (ANALYZE) jobs")
	_, _ = conn.Exec(ctx, "CHECKPOINT") // without the right to do so the measurement has more noise
}
