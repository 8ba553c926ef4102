package pgsource

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The order of jobs with an ordering key is kept by the condition of the claim (itsTurn), which the
// functions of sql/ordering.sql answer, and by nothing else. What is in this file beside it is for
// speed: the job behind one that has ended is named at once (Follow).

// orderingSQL is the hash of the ordering key, NULL for a job without one.
const orderingSQL = "hashtextextended(ordering_key, 0::bigint)"

// keyInFlight is whether a message of the job's ordering key is on its way. The keys are read once for
// a statement, when the first job with a key comes.
const keyInFlight = orderingSQL + " IN (SELECT reactor.keys_in_flight())"

// outdated is whether a job is late and must not be published, as a newer one of its key is due.
const outdated = "(ordering_key IS NOT NULL AND reactor.is_outdated(" + orderingSQL + ", fire_at, id))"

// itsTurn is the condition under which a job may be claimed: it has no ordering key, or it is the turn
// of this job, or it will not be published.
const itsTurn = `(ordering_key IS NULL
         OR NOT ` + keyInFlight + ` AND reactor.waits_until(` + orderingSQL + `, fire_at, id) IS NULL
         OR ` + outdated + `)`

// nextTurnSQL is when to look at a job with an ordering key again, if others go first; NULL: none do. Whoever
// settles the job in front names this one; the pause is for when that instance dies.
const nextTurnSQL = `
            coalesce(reactor.waits_until(` + orderingSQL + `, fire_at, id), CASE WHEN ` + keyInFlight + ` AND NOT ` + outdated + `
                 THEN clock_timestamp() + greatest(interval '20 ms', least(interval '500 ms', clock_timestamp() - fire_at)) END)`

// orderings are the jobs of a batch that have an ordering key, and the hashes of the keys.
type orderings struct{ ids, keys []int64 }

// each returns the hash of the key of each job, nil for one without.
func (o orderings) each(ids []int64) []*int64 {
	list := make([]*int64, len(ids))
	for i, id := range ids {
		if place := slices.Index(o.ids, id); place >= 0 {
			list[i] = &o.keys[place]
		}
	}
	return list
}

// of returns the hashes of the keys of those of the jobs that have one.
func (o orderings) of(ids []int64) (keys []int64) {
	for _, key := range o.each(ids) {
		if key != nil {
			keys = append(keys, *key)
		}
	}
	return keys
}

// followSQL finds the jobs behind those of some keys that have ended, and announces those of shards that
// are not ours, as their owners may learn of jobs by either feed. A notification alone is no commit; a message
// in the server's log is one, and is left out where nobody is known to read the log.
const followSQL = `
SELECT id, shard, fire_at,
       CASE WHEN NOT shard = ANY ($3::smallint[]) THEN pg_notify('` + jobsChannel + `', hint)::text END,
       CASE WHEN NOT shard = ANY ($3::smallint[]) AND $2 THEN pg_logical_emit_message(true, '` + jobsChannel + `', hint)::text END
  FROM (SELECT *, format('%s %s %s %s', id, id, (extract(epoch FROM fire_at) * 1000000)::bigint, 1::bigint << shard) AS hint FROM reactor.next_in_order($1::bigint[])) AS follower`

// Follow implements driver.Journal.
func (s *Source) Follow(ctx context.Context, keys []int64) (list []driver.Follower, err error) {
	slices.Sort(keys)
	byLog := strings.Contains(s.FeedState().Kind, "wal")
	err = s.hot.rows(ctx, followSQL, []any{slices.Compact(keys), byLog, smallints(driver.ShardSet(s.owned.Load()))}, func(rows pgx.Rows) error {
		list = list[:0]
		var (
			id    int64
			shard int16
			fire  dbTime
			told  [2]*string
		)
		_, err := pgx.ForEachRow(rows, []any{&id, &shard, &fire, &told[0], &told[1]}, func() error {
			list = append(list, driver.Follower{ID: id, Shard: uint8(shard), FireAt: fire.DBTime})
			return nil
		})
		return err
	})
	return list, s.failed("find the jobs that follow", err)
}
