// Package producer schedules jobs for reactor from Go, inside the caller's transaction: the jobs
// exist if, and only if, the transaction commits.
//
//	tx, err := pool.Begin(ctx)
//	…                                                      // the application's own changes
//	_, err = producer.Insert(ctx, producer.Pgx(tx), producer.Job{
//		Topic: "orders/17/reminder", Payload: `{"order": 17}`, FireAt: inAnHour, Key: "reminder 17",
//	})
//	err = tx.Commit(ctx)
//
// [Pgx] takes a transaction, a connection or a pool of pgx, [SQL] one of database/sql.
//
//	many at once        Insert, and InsertMany for thousands (COPY)
//	insert or replace   Schedule, by Job.Key
//	change              Cancel, CancelTopic, Reschedule, FireNow, Retry, by ID or Key
//	recurring           UpsertSchedule, PauseSchedule, ResumeSchedule, DeleteSchedule, RunSchedule
//
// What a change answers is an [Outcome], and no error: that a job has been fired already is a normal
// answer. An answer is true when the caller's transaction commits. If the program dies before the
// commit, nothing has changed; if it dies after it, all has. If the connection ends during the
// commit, either is possible: give the job a Key and use Schedule, which can be repeated.
//
// [Schema] is an option for a deployment with another schema than reactor.
//
// The package needs version 6 of the schema, with the functions of sql/functions.sql, and calls them
// wherever the caller's search path leads. It does no more than they do: other languages call them
// in the same way.
package producer
