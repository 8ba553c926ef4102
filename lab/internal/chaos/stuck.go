package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// diagnosticQueries show the state of a deployment that makes no progress.
var diagnosticQueries = []struct{ title, sql string }{
	{"waiting jobs", `
		SELECT count(*) AS jobs, count(*) FILTER (WHERE fire_at < clock_timestamp()) AS overdue,
		       clock_timestamp() - min(fire_at) AS oldest, count(DISTINCT shard) AS shards, (array_agg(id ORDER BY fire_at))[:5] AS ids,
		       (array_agg(DISTINCT topic))[:5] AS topics,
		       count(*) FILTER (WHERE id IN (SELECT job_id FROM reactor.retries)) AS retrying
		  FROM jobs WHERE NOT processed HAVING count(*) > 0`},
	{"journal", `
		SELECT f.lane, count(*) AS batches, sum(cardinality(f.job_ids)) AS jobs, sum(f.settled) AS settled,
		       min(f.epoch) AS epoch, min(l.epoch) AS lane_epoch, clock_timestamp() - min(f.claimed_at) AS oldest, min(i.name) AS owner
		  FROM reactor.in_flight f LEFT JOIN reactor.lanes l USING (lane) LEFT JOIN reactor.instances i ON i.id = l.owner
		 GROUP BY f.lane ORDER BY f.lane`},
	{"instance", `
		SELECT i.name, clock_timestamp() - i.heartbeat_at AS beat, i.steady_since,
		       (SELECT count(*) FROM reactor.shards s WHERE s.owner = i.id) AS shards,
		       (SELECT array_agg(lane ORDER BY lane) FROM reactor.lanes l WHERE l.owner = i.id) AS lanes
		  FROM reactor.instances i ORDER BY i.name`},
	{"without an owner", `
		SELECT (SELECT count(*) FROM reactor.shards WHERE owner IS NULL OR owner NOT IN (SELECT id FROM reactor.instances)) AS shards,
		       (SELECT array_agg(lane) FROM reactor.lanes WHERE owner NOT IN (SELECT id FROM reactor.instances)) AS lanes`},
	{"session", `
		SELECT pid, state, wait_event_type AS waits_for, wait_event AS event, pg_blocking_pids(pid) AS blocked_by,
		       clock_timestamp() - state_change AS since, left(regexp_replace(query, '\s+', ' ', 'g'), 80) AS query
		  FROM pg_stat_activity
		 WHERE datname = current_database() AND pid <> pg_backend_pid() AND (state <> 'idle' OR wait_event_type = 'Lock')`},
}

// describeStuck describes a deployment that makes no progress, with a line for each row of the
// diagnostic queries.
func describeStuck(ctx context.Context, conn *pgx.Conn) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	for _, q := range diagnosticQueries {
		rows, err := conn.Query(ctx, "SELECT row_to_json(x)::text FROM ("+q.sql+") AS x")
		if err != nil {
			fmt.Fprintf(&b, "\n    %s: %v", q.title, err)
			continue
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			fmt.Fprintf(&b, "\n    %s: %v", q.title, err)
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "\n    %s: %s", q.title, line)
		}
	}
	return b.String()
}
