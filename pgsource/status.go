package pgsource

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Status is how a deployment is doing: what its instances say of themselves, and what the tables say.
type Status struct {
	// At is the database's time to which all of it refers.
	At driver.DBTime
	// Deployment is the name that the database records, SchemaVersion the newest version that is applied; 0: the
	// schema was created by hand.
	Deployment    string
	SchemaVersion int64
	// Instances in order of their names.
	Instances []InstanceStatus
	// Unowned shards have no living owner. With fixed shares, no shard has one.
	Unowned int
	// Owners are the ids of the living instances that own the shards, 64 of them by their numbers; 0: nobody.
	Owners  []int64
	Lanes   []LaneStatus
	Backlog Backlog
	// Next are the jobs that fire next, in order.
	Next []NextJob
}

// InstanceStatus is an instance. What it says of itself is up to a second old.
type InstanceStatus struct {
	ID      int64
	Name    string
	Version string // of its program; "": not known
	// Protocols are those that it understands.
	Protocols driver.Protocols
	// Dynamic: it takes part in the distribution of shards; otherwise it has a fixed share.
	Dynamic bool
	Started driver.DBTime
	// Beat is the age of its last heartbeat. After three seconds without one the others take over; Silent
	// tells that it is older.
	Beat   time.Duration
	Silent bool
	// Feed is how it learns of new jobs, FeedProblem what is wrong with that; "": nothing.
	Feed, FeedProblem string
	// Shards and Lanes are those that it owns, by the tables.
	Shards, Lanes int
	// Snapshot is what it says of itself; nil: nothing, because it has just begun, or is of a version before 7
	// of the schema.
	Snapshot *driver.Snapshot
}

// LaneStatus is a lane, that is an MQTT session.
type LaneStatus struct {
	Lane     int
	Instance string // "": it has no owner
	InFlight int64  // jobs that are claimed and not settled
}

// Backlog are numbers of jobs. They are counted up to MostCounted: a larger number means that there are more.
type Backlog struct {
	// Due jobs are unprocessed and their time has come, Oldest of them since that long. Those that wait for their next
	// attempt do not count.
	Due    int64
	Oldest time.Duration
	// Soon is how many fall due within a minute.
	Soon int64
	// Firing jobs are claimed and not settled; this one is exact.
	Firing int64
	// Retrying jobs wait for their next attempt; Blocked ones cannot be claimed because of their rows.
	Retrying, Blocked int64
	// Failed jobs have ended without being published: failed, expired or missed.
	Failed int64
}

// MostCounted bounds what Status reads of a large backlog.
const MostCounted = 10_000

// NextJob is a job that fires next.
type NextJob struct {
	ID     int64
	Topic  string
	FireAt driver.DBTime
}

const (
	// silentAfter is the default Config.TTL.
	silentAfter = "3 seconds"
	// soon is how far ahead Backlog.Soon counts.
	soon = time.Minute
	// mostNext is how many jobs Status.Next has at most.
	mostNext = 5
)

// Status reads how the deployment is doing. It reads the small tables of the membership, the journal, and up to MostCounted
// entries of the index of unprocessed jobs for each number.
func (a *JobsAdmin) Status(ctx context.Context) (s Status, err error) {
	a.needs = toSeeStatus
	if err := a.find(ctx); err != nil {
		return s, err
	}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		for _, read := range []func(context.Context, pgx.Tx, *Status) error{readDeployment, readInstances, readLanes, a.readBacklog, a.readNext} {
			if err := read(ctx, tx, &s); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// Backlog reads the numbers of jobs alone.
func (a *JobsAdmin) Backlog(ctx context.Context) (b Backlog, err error) {
	a.needs = toSeeStatus
	if err := a.find(ctx); err != nil {
		return b, err
	}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		var s Status
		if err := tx.QueryRow(ctx, "SELECT "+micros("clock_timestamp()")).Scan(&s.At); err != nil {
			return err
		}
		if err := readLanes(ctx, tx, &s); err != nil {
			return err
		}
		err := a.readBacklog(ctx, tx, &s)
		b = s.Backlog
		return err
	})
	return b, err
}

func readDeployment(ctx context.Context, tx pgx.Tx, s *Status) error {
	var versioned bool // the table is missing where the schema was created by hand
	if err := tx.QueryRow(ctx, `
		SELECT `+micros("clock_timestamp()")+`, (SELECT name FROM reactor.deployment), to_regclass('reactor.schema_version') IS NOT NULL,
		       (SELECT count(*) FROM reactor.shards WHERE owner IS NULL OR owner NOT IN (SELECT id FROM reactor.instances)),
		       ARRAY(SELECT coalesce((SELECT i.id FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner WHERE s.shard = n), 0) FROM generate_series(0, $1::integer) AS n ORDER BY n)`, driver.Shards-1).
		Scan(&s.At, &s.Deployment, &versioned, &s.Unowned, &s.Owners); err != nil || !versioned {
		return err
	}
	return tx.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM reactor.schema_version WHERE is_applied").Scan(&s.SchemaVersion)
}

// instancesSQL reads the rows as JSON where columns are missing before version 7 of the schema.
var instancesSQL = `
SELECT id, name, coalesce(row ->> 'version', ''), coalesce((row ->> 'protocol_oldest')::integer, 1), coalesce((row ->> 'protocol')::integer, 1), dynamic, ` + micros("started_at") + `,
       (greatest(extract(epoch FROM clock_timestamp() - heartbeat_at), 0) * 1000000)::bigint * 1000, heartbeat_at < clock_timestamp() - '` + silentAfter + `'::interval,
       coalesce(feed, ''), coalesce(feed_problem, ''), (SELECT count(*) FROM reactor.shards WHERE owner = i.id), (SELECT count(*) FROM reactor.lanes WHERE owner = i.id),
       coalesce(row ->> 'snapshot', '')
  FROM reactor.instances AS i CROSS JOIN LATERAL to_jsonb(i) AS row ORDER BY name, id`

func readInstances(ctx context.Context, tx pgx.Tx, s *Status) error {
	rows, err := tx.Query(ctx, instancesSQL)
	if err != nil {
		return err
	}
	s.Instances, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (i InstanceStatus, err error) {
		var snapshot string
		err = row.Scan(&i.ID, &i.Name, &i.Version, &i.Protocols.Oldest, &i.Protocols.Newest, &i.Dynamic, &i.Started, &i.Beat, &i.Silent, &i.Feed, &i.FeedProblem, &i.Shards, &i.Lanes, &snapshot)
		i.Snapshot = decodeSnapshot(snapshot)
		return i, err
	})
	return err
}

var lanesSQL = `
SELECT l.lane, coalesce(i.name, ''), (SELECT coalesce(sum(cardinality(array_remove(f.job_ids[f.settled + 1:], NULL))), 0) FROM reactor.in_flight f WHERE ` + ofLane("l.lane") + `)
  FROM reactor.lanes l LEFT JOIN reactor.instances i ON i.id = l.owner ORDER BY l.lane`

func readLanes(ctx context.Context, tx pgx.Tx, s *Status) error {
	rows, err := tx.Query(ctx, lanesSQL)
	if err != nil {
		return err
	}
	s.Lanes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (l LaneStatus, err error) {
		return l, row.Scan(&l.Lane, &l.Instance, &l.InFlight)
	})
	for _, l := range s.Lanes {
		s.Backlog.Firing += l.InFlight
	}
	return err
}

// pausedSQL is whether a job waits for its next attempt.
const pausedSQL = "EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = job.id AND r.claim = job.claim AND r.returned AND r.retry_at > {now})"

// pending returns the text for jobs of all shards that meet a condition, at most limit of each, in order.
func (a *JobsAdmin) pending(where, limit string) string {
	return fmt.Sprintf(`generate_series(0, %d) AS s (shard) CROSS JOIN LATERAL (SELECT job.id, job.topic, job.fire_at FROM %s AS job WHERE %s AND %s ORDER BY job.fire_at, job.id LIMIT %s) AS one`,
		driver.Shards-1, a.jobs, ofShard, where, limit)
}

func (a *JobsAdmin) readBacklog(ctx context.Context, tx pgx.Tx, s *Status) error {
	var args parameters
	now := args.at(s.At)
	count := func(where string) string {
		return fmt.Sprintf("(SELECT count(*) FROM (SELECT FROM %s LIMIT %d) AS counted)", where, MostCounted+1)
	}
	limit := fmt.Sprint(MostCounted + 1)
	due := "job.fire_at <= {now} AND NOT " + pausedSQL
	sql := strings.Join([]string{
		count(a.pending(due, limit)),
		"coalesce((extract(epoch FROM {now} - (SELECT min(one.fire_at) FROM " + a.pending(due, "1") + ")) * 1000000)::bigint, 0)",
		count(a.pending("job.fire_at > {now} AND job.fire_at <= {now} + "+args.add(interval(soon), "interval"), limit)),
		count("reactor.retries AS r WHERE r.returned AND r.attempts > 0 AND r.retry_at > {now} AND EXISTS (SELECT FROM " + a.jobs + " AS job WHERE job.id = r.job_id AND job.claim = r.claim AND NOT job.processed)"),
		count("reactor.failed_jobs AS f WHERE f.claim IS NULL AND EXISTS (SELECT FROM " + a.jobs + " AS job WHERE job.id = f.job_id AND NOT job.processed AND " + rowVersion + " = f.row_version)"),
		count("reactor.failed_jobs WHERE claim IS NOT NULL"),
	}, ",\n")
	var oldest int64
	err := tx.QueryRow(ctx, "SELECT "+strings.ReplaceAll(sql, "{now}", now), args...).
		Scan(&s.Backlog.Due, &oldest, &s.Backlog.Soon, &s.Backlog.Retrying, &s.Backlog.Blocked, &s.Backlog.Failed)
	s.Backlog.Oldest = time.Duration(min(oldest, int64(maxOldest/time.Microsecond))) * time.Microsecond
	return err
}

// maxOldest is the longest time for which a job can be said to be due: 292 years, of PostgreSQL's 6,700.
const maxOldest = time.Duration(1<<63 - 1)

func (a *JobsAdmin) readNext(ctx context.Context, tx pgx.Tx, s *Status) error {
	var args parameters
	limit := fmt.Sprint(mostNext)
	rows, err := tx.Query(ctx, "SELECT one.id, one.topic, "+micros("one.fire_at")+" FROM "+a.pending("job.fire_at > "+args.at(s.At), limit)+" ORDER BY one.fire_at, one.id LIMIT "+limit, args...)
	if err != nil {
		return err
	}
	s.Next, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (j NextJob, err error) {
		return j, row.Scan(&j.ID, &j.Topic, &j.FireAt)
	})
	return err
}
