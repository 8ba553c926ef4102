package pgsource

import "slices"

// JobState is what has become of a job.
type JobState string

// The states of a job. Those from JobFired on are final.
const (
	JobWaiting   JobState = "waiting"   // nobody has claimed it
	JobRetrying  JobState = "retrying"  // the broker has refused it, and it waits for its next attempt
	JobBlocked   JobState = "blocked"   // it is due, and its row cannot be changed: a trigger, a constraint
	JobFiring    JobState = "firing"    // an instance has claimed it, and it is being published
	JobReturning JobState = "returning" // it was claimed and not published, and is about to wait again
	JobFired     JobState = "fired"     // it was published, or somebody has marked it as processed
	JobFailed    JobState = "failed"    // it was given up, with the reason
	JobExpired   JobState = "expired"   // it ended because of its expires_at
	JobMissed    JobState = "missed"    // it ended because it was later than the deployment or its schedule allows
)

// JobStates are all states.
var JobStates = []JobState{JobWaiting, JobRetrying, JobBlocked, JobFiring, JobReturning, JobFired, JobFailed, JobExpired, JobMissed}

// Final reports whether a job in this state has ended.
func (s JobState) Final() bool {
	return slices.Index(JobStates, s) >= slices.Index(JobStates, JobFired)
}

// unfiredStates are the states of unprocessed rows.
var unfiredStates = []JobState{JobWaiting, JobRetrying, JobBlocked}

// One statement reads the row, the journal, and the notes: a job moves between them in one commit, so
// that each snapshot shows exactly one state. reactor.find_job (sql/functions.sql) tells the same,
// and knows fewer states.

// journalCTE is the journal, a row for each job.
var journalCTE = `journal AS MATERIALIZED (
    SELECT l.lane, l.owner, entry.batch, entry.token, entry.claimed_at, entry.qos, entry.settled, u.id, u.place
      FROM reactor.lanes l
     CROSS JOIN LATERAL (SELECT f.batch, f.token, f.claimed_at, f.qos, f.settled, f.job_ids FROM reactor.in_flight f WHERE ` + ofLane("l.lane") + `) AS entry
     CROSS JOIN LATERAL unnest(entry.job_ids) WITH ORDINALITY AS u (id, place)
     WHERE u.id IS NOT NULL)`

// notesJoin joins a row with what is noted of it, and of no other row that had its id: the claim is
// that of the row. What could not be claimed has none; its record names the version of the row.
const notesJoin = `
  LEFT JOIN journal AS flight ON flight.id = job.id AND flight.token = job.claim AND job.processed
  LEFT JOIN reactor.retries AS note ON note.job_id = job.id AND note.claim = job.claim
  LEFT JOIN reactor.failed_jobs AS failure ON failure.job_id = job.id
       AND CASE WHEN job.processed THEN failure.claim = job.claim ELSE failure.claim IS NULL AND failure.row_version = ` + rowVersion + ` END`

// rowVersion identifies a version of a row: by the transaction that has written it.
const rowVersion = "job.xmin::text::bigint"

const stateSQL = `
       CASE WHEN NOT job.processed THEN
                 CASE WHEN failure.job_id IS NOT NULL THEN 'blocked' WHEN note.attempts > 0 AND note.returned THEN 'retrying' ELSE 'waiting' END
            WHEN job.claim IS NULL THEN 'fired'
            WHEN flight.id IS NOT NULL THEN 'firing'
            WHEN NOT note.returned THEN 'returning'
            ELSE coalesce(failure.state, 'fired') END`
