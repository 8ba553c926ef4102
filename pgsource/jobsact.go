package pgsource

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// JobAction is what Act does with jobs: CancelJobs, RescheduleJobs, FireJobs, RetryJobs, PurgeJobs.
type JobAction struct {
	// Name is what a person would call it.
	Name string
	// Done is what the function answers if it has done it.
	Done string
	// Acts are the states of jobs that it can change.
	Acts     []JobState
	function string         // by id
	byKey    bool           // there is one by key as well
	at       *driver.DBTime // a second argument, if there is one
	second   bool
}

var changeable = []JobState{JobWaiting, JobRetrying, JobBlocked, JobReturning}

// CancelJobs deletes jobs that have not fired.
func CancelJobs() JobAction {
	return JobAction{Name: "cancel", Done: "cancelled", Acts: changeable, function: "cancel", byKey: true}
}

// RescheduleJobs moves jobs that have not fired to another time.
func RescheduleJobs(at driver.DBTime) JobAction {
	return JobAction{Name: "reschedule", Done: "rescheduled", Acts: changeable, function: "reschedule", byKey: true, at: &at, second: true}
}

// FireJobs makes jobs that have not fired due at once.
func FireJobs() JobAction {
	return JobAction{Name: "fire", Done: "due now", Acts: changeable, function: "fire_now", byKey: true}
}

// RetryJobs has jobs that failed, expired or were missed tried again, with all their attempts. Their
// expires_at becomes the one that is given; nil: none.
func RetryJobs(expiresAt *driver.DBTime) JobAction {
	return JobAction{Name: "retry", Done: "to be tried again", Acts: []JobState{JobFailed, JobExpired, JobMissed}, function: "retry", at: expiresAt, second: true}
}

// PurgeJobs deletes jobs that failed, expired or were missed, with what is noted of them.
func PurgeJobs() JobAction {
	return JobAction{Name: "purge", Done: "deleted", Acts: []JobState{JobFailed, JobExpired, JobMissed}}
}

// sql answers for each of some jobs, whose rows are locked: ids is their ids.
func (k JobAction) sql(args *parameters, table, ids string) string {
	if k.function == "" {
		return "WITH " + journalCTE + strings.NewReplacer("{jobs}", table, "{ids}", ids).Replace(purgeJobsSQL)
	}
	return "SELECT u.id, " + k.call(args, "u.id") + " FROM unnest(" + ids + ") AS u (id)"
}

// purgeJobsSQL deletes what has ended without being published. One that blocks its ordering key is over then, and those
// behind it go on.
var purgeJobsSQL = `, ended AS MATERIALIZED (
    SELECT job.id, job.claim FROM {jobs} AS job` + notesJoin + ` WHERE job.id = ANY ({ids}) AND (` + stateSQL + `) = ANY ('{failed,expired,missed}'::text[])
), gone AS (
    DELETE FROM {jobs} AS job USING ended WHERE job.id = ended.id AND job.processed AND job.claim = ended.claim RETURNING job.id, job.claim
), records AS (
    DELETE FROM reactor.failed_jobs f USING gone WHERE f.job_id = gone.id AND f.claim = gone.claim
), notes AS (
    DELETE FROM reactor.retries r USING gone WHERE r.job_id = gone.id AND r.claim = gone.claim
)
SELECT u.id, CASE WHEN EXISTS (SELECT FROM gone WHERE gone.id = u.id) THEN 'deleted' WHEN EXISTS (SELECT FROM {jobs} AS job WHERE job.id = u.id) THEN 'not failed' ELSE 'not found' END
  FROM unnest({ids}) AS u (id)`

// call is the call of the function of sql/functions.sql.
func (k JobAction) call(args *parameters, subject string) string {
	call := "reactor." + k.function + "(" + subject
	switch {
	case k.at != nil:
		call += ", " + args.at(*k.at)
	case k.second:
		call += ", NULL"
	}
	return call + ")"
}

// needs are the rights that it takes. To lock a row takes UPDATE, too.
func (k JobAction) needs() rights {
	switch k.function {
	case "cancel":
		return toCancel
	case "":
		return toPurgeSome
	}
	return toChange
}

// JobOutcome is what became of an action on one job.
type JobOutcome struct {
	ID  int64
	Key string // what was asked for, if it was a key
	// Answer is what the function has answered, such as "cancelled" or "too late, firing now"; or why it
	// could not be called: "locked by somebody", "changed meanwhile", "refused: …".
	Answer string
	// Done: the job was changed.
	Done bool
}

// actedAtOnce is how many jobs are changed in one transaction. Their rows are locked until its commit.
const actedAtOnce = 200

const (
	answerChanged = "changed meanwhile"
	answerLocked  = "locked by somebody"
)

// Act changes jobs, some in each transaction, and calls tell for each after its commit. It leaves
// alone what does not pass the filter any more; its states do not matter here, because the functions
// look at them themselves.
//
// If we crash, or tell returns an error, some have been changed, and the others have not.
func (a *JobsAdmin) Act(ctx context.Context, action JobAction, ids []int64, filter JobFilter, tell func(JobOutcome) error) error {
	a.needs = action.needs()
	if err := a.find(ctx); err != nil {
		return err
	}
	for some := range slices.Chunk(ids, actedAtOnce) {
		// In order of id, as everybody locks them who locks several.
		some = slices.Compact(slices.Sorted(slices.Values(some)))
		answers, left, err := a.actTogether(ctx, action, some, filter)
		if err != nil && !concernsRows(err) {
			return explainAct(err)
		}
		if err != nil { // one of them is refused: nothing was changed
			answers, left = nil, some
		}
		for _, outcome := range answers {
			if err := tell(outcome); err != nil {
				return err
			}
		}
		for _, id := range left {
			outcome := JobOutcome{ID: id}
			answer, err := a.actAlone(ctx, action, id, filter)
			switch {
			case err == nil:
				outcome.Answer = answer
			case !concernsRows(err):
				return explainAct(err)
			default:
				outcome.Answer = whyRefused(err)
			}
			outcome.Done = outcome.Answer == action.Done
			if err := tell(outcome); err != nil {
				return err
			}
		}
	}
	return nil
}

// ActByKey changes the job with a key.
func (a *JobsAdmin) ActByKey(ctx context.Context, action JobAction, key string) (JobOutcome, error) {
	a.needs = action.needs()
	outcome := JobOutcome{Key: key}
	if err := a.find(ctx); err != nil {
		return outcome, err
	}
	args := parameters{key}
	var sql string
	if action.byKey {
		sql = "SELECT 0::bigint, " + action.call(&args, "$1::text")
	} else {
		id, err := a.idOfKey(ctx, key)
		if errors.Is(err, ErrNoJob) {
			outcome.Answer = "not found"
			return outcome, nil
		}
		if err != nil {
			return outcome, err
		}
		outcome.ID, args = id, parameters{id}
		sql = action.sql(&args, a.jobs, "ARRAY[$1::bigint]")
	}
	err := a.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, sql, args...).Scan(&outcome.ID, &outcome.Answer)
	})
	switch {
	case err != nil && !concernsRows(err):
		return outcome, explainAct(err)
	case err != nil:
		outcome.Answer = whyRefused(err)
	}
	outcome.Done = outcome.Answer == action.Done
	return outcome, nil
}

// actTogether changes the jobs whose rows nobody has locked, in one transaction. left are the others:
// they are locked, or are not there.
func (a *JobsAdmin) actTogether(ctx context.Context, action JobAction, ids []int64, filter JobFilter) (answers []JobOutcome, left []int64, err error) {
	err = a.tx(ctx, func(tx pgx.Tx) error {
		args := parameters{ids}
		matches := filter.matches(&args)
		// The lock waits for nobody. The second column is that of the newest version of the row.
		rows, err := tx.Query(ctx, "SELECT job.id, "+matches+" FROM "+a.jobs+" AS job WHERE job.id = ANY ($1::bigint[]) ORDER BY job.id FOR UPDATE SKIP LOCKED", args...)
		if err != nil {
			return err
		}
		answers, left = nil, slices.Clone(ids)
		var (
			id      int64
			same    bool
			locked  []int64
			outcome JobOutcome
		)
		if _, err := pgx.ForEachRow(rows, []any{&id, &same}, func() error {
			if at, ok := slices.BinarySearch(left, id); ok {
				left = slices.Delete(left, at, at+1)
				if same {
					locked = append(locked, id)
				} else {
					answers = append(answers, JobOutcome{ID: id, Answer: answerChanged})
				}
			}
			return nil
		}); err != nil || len(locked) == 0 {
			return err
		}
		args = parameters{locked}
		rows, err = tx.Query(ctx, action.sql(&args, a.jobs, "$1::bigint[]"), args...)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&outcome.ID, &outcome.Answer}, func() error {
			outcome.Done = outcome.Answer == action.Done
			answers = append(answers, outcome)
			return nil
		})
		return err
	})
	return answers, left, err
}

// actAlone changes one job, and waits for its row for adminLockTimeout.
func (a *JobsAdmin) actAlone(ctx context.Context, action JobAction, id int64, filter JobFilter) (answer string, err error) {
	err = a.tx(ctx, func(tx pgx.Tx) error {
		args := parameters{id}
		var same bool
		err := tx.QueryRow(ctx, "SELECT "+filter.matches(&args)+" FROM "+a.jobs+" AS job WHERE job.id = $1::bigint LIMIT 1 FOR UPDATE", args...).Scan(&same)
		switch {
		case err != nil && !errors.Is(err, pgx.ErrNoRows):
			return err
		case err == nil && !same:
			answer = answerChanged
			return nil
		}
		args = parameters{id}
		return tx.QueryRow(ctx, action.sql(&args, a.jobs, "ARRAY[$1::bigint]"), args...).Scan(&id, &answer)
	})
	return answer, err
}

// concernsRows reports whether an error comes from one of the rows, and not from our rights, the
// schema, or the connection.
func concernsRows(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.SeverityUnlocalized != "ERROR" || pgErr.Code == pgerrcode.ReadOnlySQLTransaction {
		return false
	}
	return refusesRow(pgErr) || waited(err) || pgErr.Code == pgerrcode.DeadlockDetected || pgErr.Code == pgerrcode.SerializationFailure
}

func whyRefused(err error) string {
	var pgErr *pgconn.PgError
	switch code := sqlState(err); {
	case code == pgerrcode.LockNotAvailable, code == pgerrcode.DeadlockDetected:
		return answerLocked
	case code == pgerrcode.UniqueViolation && errors.As(err, &pgErr) && strings.Contains(pgErr.ConstraintName, "key"):
		return "refused: another job has its key by now"
	}
	return "refused: " + statementText(err)
}

// explainAct names the remedy where a function is missing.
func explainAct(err error) error {
	if sqlState(err) == pgerrcode.UndefinedFunction {
		return explained(err, "the functions of this version are not in the database: run `reactor migrate up`")
	}
	return err
}

// doubled doubles the quotes of a text that stands between quotes.
func doubled(text string) string { return strings.ReplaceAll(text, "'", "''") }
