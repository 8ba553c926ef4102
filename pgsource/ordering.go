package pgsource

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
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
const outdated = "reactor.is_outdated(" + orderingSQL + ", fire_at, id)"

// itsTurn is the condition under which one of the jobs with these ids may be claimed: it has no ordering key, or
// it is the turn of this job, and it is to be published. Of those with one key only the first can
// pass; the others are not asked about, as that costs much more than to find the first. They are found by
// their ids: the condition that they are unprocessed is written so that it matches no partial index (pending), not even
// jobs_ordered.
func itsTurn(ids, from, to string) string {
	return `(ordering_key IS NULL
         OR id = ANY (ARRAY(SELECT DISTINCT ON (` + orderingSQL + `) id FROM {jobs} WHERE id = ANY (` + ids + `::bigint[]) AND ordering_key IS NOT NULL AND NOT coalesce(processed, true){in ` + from + ` to ` + to + `}
                             ORDER BY ` + orderingSQL + `, fire_at, id))
        AND NOT ` + keyInFlight + ` AND reactor.waits_until(` + orderingSQL + `, fire_at, id) IS NULL AND NOT ` + outdated + `)`
}

// queue holds the jobs of a read that have an ordering key: of each key the first one, and the others.
type queue struct {
	firsts map[int64]int // places in the read, by the hash of the key
	others []int         // places in the read
}

// add notes the last of the jobs. The order of the read does not matter.
func (q *queue) add(key int64, jobs []driver.Pending) {
	if q.firsts == nil {
		q.firsts = make(map[int64]int)
	}
	place := len(jobs) - 1
	if before, known := q.firsts[key]; known {
		job, first := jobs[place], jobs[before]
		if cmp.Or(cmp.Compare(job.FireAt, first.FireAt), cmp.Compare(job.ID, first.ID)) > 0 {
			q.others = append(q.others, place)
			return
		}
		q.others = append(q.others, before)
	}
	q.firsts[key] = place
}

// turnsSQL finds when to look at jobs that are the first of their keys in a read, if others go first; NULL:
// none do. While a message of the key is on its way, whoever settles it names the next one (Follow); the pause is for when
// that instance dies. A job that is not due yet is looked at again at its time.
const turnsSQL = `
SELECT place, is_late AND reactor.is_outdated(key, fire_at, id), clock_timestamp(),
       CASE WHEN is_late THEN coalesce(reactor.waits_until(key, fire_at, id), CASE WHEN key IN (SELECT reactor.keys_in_flight())
                 THEN clock_timestamp() + greatest(interval '20 ms', least(interval '500 ms', clock_timestamp() - fire_at)) END) END
  FROM (SELECT *, fire_at <= clock_timestamp() AS is_late FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::bigint[]) AS f (place, key, fire_at, id)) AS first`

const (
	// leastTurn and mostTurn bound the pause of a job behind others of its key in a read. It is as long as
	// the job is late: it is named when its turn has come, and thousands behind one that does not come to an
	// end are not looked at all the time.
	leastTurn = 50 * time.Millisecond
	mostTurn  = time.Minute
)

// postpone gives jobs that wait for others of their key the times at which to look at them again.
func (s *Source) postpone(ctx context.Context, jobs []driver.Pending, waiting queue) error {
	if len(waiting.firsts) == 0 {
		return nil
	}
	var (
		places, keys, ids []int64
		fires             []dbTime
	)
	for key, place := range waiting.firsts {
		job := jobs[place]
		places, keys, fires, ids = append(places, int64(place)), append(keys, key), append(fires, dbTime{job.FireAt}), append(ids, job.ID)
	}
	var now dbTime
	err := s.work.rows(ctx, turnsSQL, []any{places, keys, fires, ids}, func(rows pgx.Rows) error {
		var (
			place int
			late  bool
			until nullTime
		)
		_, err := pgx.ForEachRow(rows, []any{&place, &late, &now, &until}, func() error {
			switch job := &jobs[place]; {
			case late:
				s.outdated.Store(true) // the claim finds it, and ends it
			case until.valid:
				job.DueAt = max(job.DueAt, until.DBTime)
			}
			return nil
		})
		return err
	})
	for _, place := range waiting.others {
		job := &jobs[place]
		job.DueAt = max(job.DueAt, now.Add(min(max(now.Sub(job.FireAt), leastTurn), mostTurn)))
	}
	return err
}

// endOutdatedSQL ends late jobs of the ordering keys of some jobs, because newer ones are due. Nothing of them was sent, and
// nobody has claimed them; so this is one commit: if we crash before it, the jobs are as they were, and after it
// they have ended. Any instance may do it. It returns how many, and the hashes of their keys.
const endOutdatedSQL = `
WITH late AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place, fire_at AS at, ` + orderingSQL + ` AS ordering FROM {jobs} AS job
     WHERE ` + orderingSQL + ` = ANY (ARRAY(SELECT DISTINCT ` + orderingSQL + ` FROM {jobs} WHERE id = ANY ($1::bigint[]) AND ordering_key IS NOT NULL))
       AND ordering_key IS NOT NULL AND ` + pending + ` AND fire_at < (SELECT clock_timestamp()) AND ($3::bigint IS NULL OR id = $3) AND ` + outdated + `
       AND NOT ` + quarantined + `
     ORDER BY id LIMIT ` + mostOutdated + ` FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE {jobs} AS job SET processed = true, processed_at = clock_timestamp(), claim = $2
      FROM late WHERE job.ctid = late.place AND job.tableoid = late.part AND job.fire_at = late.at
    RETURNING job.id, late.ordering
), recorded AS (
    INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim, state, ordering)
    SELECT id, 0, 0, 'missed: it was late, and a newer job of its ordering key was due as well', $2, 'missed', ordering FROM ended
    ON CONFLICT (job_id) DO UPDATE
       SET failed_at = excluded.failed_at, attempts = 0, code = 0, reason = excluded.reason, claim = excluded.claim, state = excluded.state, ordering = excluded.ordering
)
SELECT count(*), coalesce(array_agg(DISTINCT ordering), '{}') FROM ended`

// mostOutdated is how many jobs one statement ends.
const mostOutdated = "1000"

// endOutdated ends what is outdated of the ordering keys of jobs that a claim did not get, and returns how
// many jobs that were, and the hashes of their keys. An error is left to the next attempt. A row that refuses the
// change is recorded, as one is that refuses its claim; those behind it go on without it.
func (s *Source) endOutdated(ctx context.Context, req driver.ClaimRequest) (ended int, keys []int64) {
	end := func(id *int64) (n int, err error) {
		var some []int64
		err = s.hot.row(ctx, s.jobs().endOutdated, []any{req.IDs, uuid(driver.NewToken()), id}, &n, &some)
		ended, keys = ended+n, append(keys, some...)
		return n, err
	}
	for s.outdated.Load() {
		n, err := end(nil)
		if aboutJob(err) {
			for _, id := range req.IDs {
				if _, err = end(&id); aboutJob(err) {
					err = s.Quarantine(ctx, []driver.BadJob{{ID: id, Why: &driver.JobError{Reason: "cannot be ended: " + statementText(err), Err: err}}})
				}
			}
		}
		if err != nil {
			s.log.Debug("cannot end jobs that are outdated", "err", err)
			break
		}
		s.outdated.Store(n > 0)
	}
	return ended, keys
}

// bindOrdering makes the functions of sql/ordering.sql read this table, if they read another one: it has moved to
// another schema. If we crash before the commit, the next start does it.
func (s *Source) bindOrdering(ctx context.Context, schema string) error {
	var bound bool
	err := s.control.row(ctx, "SELECT strpos(prosrc, 'FROM ' || format('%I.jobs', $1::text) || ' j') > 0 FROM pg_proc WHERE oid = to_regproc('reactor.waits_until')", []any{schema}, &bound)
	const bind = "SELECT reactor.bind_ordering()"
	if err == nil && !bound && !s.examining {
		err = s.control.exec(ctx, bind)
	}
	if sqlState(err) == pgerrcode.InsufficientPrivilege {
		return explained(err, "the table of jobs has moved to schema %s, and this role may not tell the functions that keep jobs in order: as their owner run %s", pgx.Identifier{schema}.Sanitize(), s.names.In(bind))
	}
	return err
}

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
	list, err = s.follow(ctx, keys, driver.ShardSet(s.owned.Load()))
	if queueFull(err) { // the sweep of the others finds theirs
		list, err = s.follow(ctx, keys, driver.AllShards)
	}
	return list, s.failed("find the jobs that follow", err)
}

// follow is Follow, and announces the jobs of all shards but these.
func (s *Source) follow(ctx context.Context, keys []int64, silent driver.ShardSet) (list []driver.Follower, err error) {
	byLog := strings.Contains(s.FeedState().Kind, "wal")
	err = s.hot.rows(ctx, followSQL, []any{keys, byLog, smallints(silent)}, func(rows pgx.Rows) error {
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
	return list, err
}
