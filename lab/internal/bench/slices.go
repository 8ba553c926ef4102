package bench

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
)

// Under an old snapshot the question is not how late jobs are, but whether they become later and
// later. So the time of the load is cut into slices, each with its own lateness, and with what
// the statements have taken whose cost could grow: the reads of the table for what is due, and
// the heartbeats.

const sliceCount = 10

// Slice is a part of the time of a load.
type Slice struct {
	FromSeconds float64 `json:"from_seconds"` // since the first fire_at
	ToSeconds   float64 `json:"to_seconds"`
	Jobs        int     `json:"jobs"` // that were due in it
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	Costs
}

// Costs is the mean time of some kinds of statements in the database, by pg_stat_statements; 0 if
// there were none, or without that extension.
type Costs struct {
	ScanMillis      float64 `json:"scan_ms"`      // reads of the table in the order of fire_at; River's in its order
	HeartbeatMillis float64 `json:"heartbeat_ms"` // updates of reactor.instances
}

// statementTimes are the calls of these statements so far, and their time in ms.
type statementTimes struct {
	scans, heartbeats           int64
	scanMillis, heartbeatMillis float64
}

// The kinds are told apart by what each must contain. TestSnapshot notices when they do not.
const statementTimesSQL = `
SELECT coalesce(sum(calls) FILTER (WHERE scan), 0)::bigint, coalesce(sum(total_exec_time) FILTER (WHERE scan), 0),
       coalesce(sum(calls) FILTER (WHERE beat), 0)::bigint, coalesce(sum(total_exec_time) FILTER (WHERE beat), 0)
  FROM (SELECT calls, total_exec_time, query ~ 'ORDER BY\s+(\w+\.)?(fire_at|priority ASC)' AS scan,
               query ~ 'UPDATE reactor\.instances\s+SET heartbeat_at' AS beat FROM pg_stat_statements) AS s`

// readStatementTimes returns zeros without the extension.
func readStatementTimes(ctx context.Context, conn *pgx.Conn) (t statementTimes) {
	_ = conn.QueryRow(ctx, statementTimesSQL).Scan(&t.scans, &t.scanMillis, &t.heartbeats, &t.heartbeatMillis)
	return t
}

// since is the mean time between two moments.
func (t statementTimes) since(before statementTimes) Costs {
	return Costs{
		ScanMillis:      ratio(t.scanMillis-before.scanMillis, float64(t.scans-before.scans)),
		HeartbeatMillis: ratio(t.heartbeatMillis-before.heartbeatMillis, float64(t.heartbeats-before.heartbeats)),
	}
}

// sliceMeter reads the statements' times at the borders of slices. It uses the bench's own
// connection, from the goroutine of the trial.
type sliceMeter struct {
	width time.Duration
	next  time.Time // the border that comes next
	times []statementTimes
}

// newSliceMeter measures a load whose first jobs are due at begin.
func newSliceMeter(begin time.Time, load Load) *sliceMeter {
	return &sliceMeter{width: load.duration() / sliceCount, next: begin}
}

// tick reads the times when a border has been passed.
func (s *sliceMeter) tick(ctx context.Context, conn *pgx.Conn, now time.Time) {
	if len(s.times) <= sliceCount && !now.Before(s.next) {
		s.next = s.next.Add(s.width)
		s.times = append(s.times, readStatementTimes(ctx, conn))
	}
}

// finish returns the slices.
func (s *sliceMeter) finish(ctx context.Context, conn *pgx.Conn, jobs []check.Expected, received []check.Received) []Slice {
	for len(s.times) <= sliceCount { // the last border is that of the last arrival
		s.times = append(s.times, readStatementTimes(ctx, conn))
	}
	arrival := make(map[int64]time.Time, len(received))
	for _, r := range received {
		if at, ok := arrival[r.ID]; !ok || r.At.Before(at) {
			arrival[r.ID] = r.At
		}
	}
	first := slices.MinFunc(jobs, func(a, b check.Expected) int { return a.FireAt.Compare(b.FireAt) }).FireAt
	late := make([][]time.Duration, sliceCount)
	for _, job := range jobs {
		if at, ok := arrival[job.ID]; ok {
			i := min(int(job.FireAt.Sub(first)/s.width), sliceCount-1)
			late[i] = append(late[i], at.Sub(job.FireAt))
		}
	}
	list := make([]Slice, sliceCount)
	for i, lateness := range late {
		slices.Sort(lateness)
		r := check.Report{Lateness: lateness}
		list[i] = Slice{
			FromSeconds: float64(i) * s.width.Seconds(), ToSeconds: float64(i+1) * s.width.Seconds(), Jobs: len(lateness),
			P50: millis(r.LatenessAt(50)), P99: millis(r.LatenessAt(99)), Costs: s.times[i+1].since(s.times[i]),
		}
	}
	return list
}
