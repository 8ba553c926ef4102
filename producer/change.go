package producer

import (
	"context"
	"time"
)

// Ref says which job: by [ID] or by [Key]. The zero value is the id 0, which no job has.
type Ref struct {
	id    int64
	key   string
	named bool
}

// ID is the job with an id.
func ID(id int64) Ref { return Ref{id: id} }

// Key is the unfired job with a key or, if there is none, the latest that had the key.
func Key(key string) Ref { return Ref{key: key, named: true} }

// argument returns how the job is given to a function, and as which of its two types: drivers that do
// not tell the server the type of a parameter would always call the one for keys.
func (r Ref) argument() (value any, kind string) {
	if r.named {
		return r.key, "$1::pg_catalog.text"
	}
	return r.id, "$1::pg_catalog.int8"
}

// Outcome is what became of a call. A text that this version of the package does not know, of a newer
// function, is kept as it is.
type Outcome string

// The outcomes that a change was made.
const (
	Scheduled      Outcome = "scheduled"         // a new job
	Replaced       Outcome = "replaced"          // the unfired job with the key is this one now
	Cancelled      Outcome = "cancelled"         // it will not be published
	Rescheduled    Outcome = "rescheduled"       // it is due at the new time
	DueNow         Outcome = "due now"           // it is due at once
	ToBeTriedAgain Outcome = "to be tried again" // it failed, and is due at once
)

// The outcomes that nothing was changed.
const (
	FiringNow     Outcome = "too late, firing now"                 // it is being published, or has just been; or it may fail and come back
	AlreadyFired  Outcome = "already fired"                        // it was published, or marked as processed by hand
	AlreadyFailed Outcome = "already failed"                       // it ended without being published: see Retry
	NotFound      Outcome = "not found"                            // there is no such job
	Waiting       Outcome = "waiting"                              // Retry: it is due, or will be, anyway
	Superseded    Outcome = "replaced by a newer job with its key" // it cannot be due again beside that one
)

// String returns the text of the database.
func (o Outcome) String() string { return string(o) }

// Changed reports whether the call has changed what will be published.
func (o Outcome) Changed() bool {
	switch o {
	case Scheduled, Replaced, Cancelled, Rescheduled, DueNow, ToBeTriedAgain:
		return true
	}
	return false
}

// Schedule inserts a job or, if it has the Key of a job that has not fired, replaces that one, which
// keeps its id. The outcome is [Scheduled] or [Replaced]. While the earlier one is being fired it is not
// replaced: both are published.
func Schedule(ctx context.Context, db DB, job Job) (id int64, outcome Outcome, err error) {
	if err := job.check(); err != nil {
		return 0, "", explain("schedule", err)
	}
	err = db.row(ctx, `SELECT id, outcome FROM reactor.schedule($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.timestamptz, $4::pg_catalog.text, $5::pg_catalog.timestamptz,
		$6::pg_catalog.bytea, $7::pg_catalog.int4, $8::pg_catalog.bool, $9::pg_catalog.text, $10::pg_catalog.text, $11::pg_catalog.bytea, $12::pg_catalog.text::pg_catalog.jsonb, $13::pg_catalog.text)`,
		job.arguments(), &id, &outcome)
	if err != nil {
		return 0, "", explain("schedule", err)
	}
	return id, outcome, nil
}

// Cancel deletes a job. The outcome is [Cancelled], [FiringNow], [AlreadyFired], [AlreadyFailed] or
// [NotFound].
func Cancel(ctx context.Context, db DB, job Ref) (Outcome, error) {
	return db.change(ctx, "cancel", job, ")")
}

// Reschedule moves a job to another time; zero: now. ExpiresAt stays as it is. The outcome is
// [Rescheduled], one of Cancel's, or [Superseded].
func Reschedule(ctx context.Context, db DB, job Ref, fireAt time.Time) (Outcome, error) {
	if fireAt.IsZero() {
		return db.change(ctx, "reschedule", job, ", pg_catalog.clock_timestamp())")
	}
	if err := checkInstant("fire_at", fireAt); err != nil {
		return "", explain("reschedule", err)
	}
	return db.change(ctx, "reschedule", job, ", $2::pg_catalog.timestamptz)", instant(fireAt))
}

// FireNow makes a job due at once. The outcome is [DueNow], one of Cancel's, or [Superseded].
func FireNow(ctx context.Context, db DB, job Ref) (Outcome, error) {
	return db.change(ctx, "fire_now", job, ")")
}

// Retry has a job that failed tried again, at once and with all its attempts. expiresAt is its new
// one; zero: none. The outcome is [ToBeTriedAgain], [Waiting], [FiringNow], [AlreadyFired], [NotFound]
// or [Superseded].
func Retry(ctx context.Context, db DB, id int64, expiresAt time.Time) (Outcome, error) {
	if err := checkInstant("expires_at", expiresAt); err != nil {
		return "", explain("retry", err)
	}
	return db.change(ctx, "retry", ID(id), ", $2::pg_catalog.timestamptz)", instant(expiresAt))
}

func (db DB) change(ctx context.Context, function string, job Ref, rest string, args ...any) (outcome Outcome, err error) {
	value, kind := job.argument()
	if job.named {
		err = checkText("key", job.key)
	}
	if err == nil {
		err = db.row(ctx, "SELECT reactor."+function+"("+kind+rest, append([]any{value}, args...), &outcome)
	}
	if err != nil {
		return "", explain(function, err)
	}
	return outcome, nil
}

// CancelTopic deletes all jobs whose topic begins with a text that were not claimed yet, and returns how
// many those were, and of how many more it was too late, because they are being fired. It reads all
// jobs that have not fired. An empty text, which would cancel all of them, is an error.
func CancelTopic(ctx context.Context, db DB, prefix string) (cancelled, firing int64, err error) {
	if err = checkText("topic", prefix); err == nil {
		err = db.row(ctx, "SELECT cancelled, firing FROM reactor.cancel_topic($1::pg_catalog.text)", []any{prefix}, &cancelled, &firing)
	}
	if err != nil {
		return 0, 0, explain("cancel_topic", err)
	}
	return cancelled, firing, nil
}
