package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/schedule"
)

// Every instance makes occurrences of schedules (reactor.schedules): it inserts their jobs into jobs,
// some seconds before they are due.
//
//	look ──► is a schedule due to be looked at? ──no──► sleep, a second at most
//	              │ yes, some
//	              ▼ one transaction
//	         lock their rows, SKIP LOCKED ──► read ──► plan ──► insert the jobs
//	              ▲                                                  │
//	              └──────── more ◄── commit ◄── decided_until, look_at
//
// Exactly once. The jobs and decided_until are in one commit, under the lock of the schedule's row. If we
// die before the commit, neither is there, and the next look of any instance plans the same again, since
// a plan is a function of the row and the time. If we die after it, the next plan begins behind. Another
// instance that looks at the same time skips the locked row, or finds it after the commit with the new
// decided_until: the row is read by a statement of its own, after the one that has locked it.
//
// The commit need not wait for the disk (see Source.background). If a crash of PostgreSQL undoes it, it
// undoes both. And no job of it can have been published then: its claim commits durably, and with that
// everything before it in the server's log.
//
// The time is the database's clock, and the cost follows what is due: with no schedule due it is two
// reads of one index entry each second. While somebody holds an old snapshot, every look that made
// something leaves a row version and its index entries: what reads them follows what happened in the
// last minute, and not what has happened since (lookFrom).

const (
	// lookInterval is the longest time between two looks. A change of a schedule is seen by then; jobs
	// that are not wanted any more have been removed by the change itself.
	lookInterval = time.Second
	// blindInterval is the time between two looks while the table is missing, lackingInterval while we
	// lack a right. Other instances may have it.
	blindInterval, lackingInterval = 10 * time.Minute, 10 * time.Second
	// schedulesAtOnce and occurrencesAtOnce bound a transaction; occurrencesOfOne is the part of one
	// schedule, so that one that catches up a month of seconds holds up no other.
	schedulesAtOnce, occurrencesAtOnce, occurrencesOfOne = 100, 5000, 500
	// searchInterval is how often the index of look_at is read from its beginning, and lookMargin how much
	// before the earliest schedule the other looks begin (lookFrom).
	searchInterval, lookMargin = time.Minute, time.Minute
	// problemInterval is when a schedule with a problem is looked at again: its zone may be known to
	// another instance, or its row in jobs be refused no more.
	problemInterval = time.Minute
)

// horizon is how far ahead jobs are made: so far that no take-over or busy database makes one late, and so
// near that few have to be changed when their schedule is. Twice the lead, so that a schedule of each
// second has its row updated every ten seconds.
var horizon = schedule.Horizon{Ahead: 20 * time.Second, Lead: 10 * time.Second}

// startScheduling makes occurrences until Close, if nobody does yet.
func (s *Source) startScheduling() {
	if !s.scheduling.CompareAndSwap(false, true) {
		return
	}
	ctx := s.closing
	s.scheduler.Go(func() {
		defer s.scheduling.Store(false)
		timer := time.NewTimer(0)
		defer timer.Stop()
		var from lookFrom
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				timer.Reset(s.lookAfterSchedules(ctx, &from))
			}
		}
	})
}

// lookAfterSchedules makes what is due, and returns when to look again.
func (s *Source) lookAfterSchedules(ctx context.Context, from *lookFrom) time.Duration {
	for {
		wait, err := s.untilLook(ctx, from)
		if err == nil && wait > 0 {
			s.unscheduled.OK(s.log, "the jobs of schedules are made again")
			// The instances look at different moments, so that one of them usually finds everything.
			return min(lookInterval-rand.N(lookInterval/8), wait)
		}
		more := false
		if err == nil {
			more, err = s.makeOccurrences(ctx, from.at())
		}
		switch {
		case err != nil && ctx.Err() == nil:
			return s.cannotSchedule(err)
		case !more:
			return lookInterval
		}
	}
}

// cannotSchedule reports an error, and returns when to try again.
func (s *Source) cannotSchedule(err error) time.Duration {
	const failing = "the jobs of schedules are not made by this instance"
	switch {
	case errors.Is(err, errNoSchedules):
		s.unscheduled.Fail(s.log, slog.LevelInfo, failing, "err", err)
		return blindInterval
	case sqlState(err) == pgerrcode.InsufficientPrivilege:
		var grants string
		if s.background.row(s.closing, missingRightsSQL, []any{toMakeJobs.names(), toMakeJobs.privileges()}, &grants) == nil && grants != "" {
			err = explained(err, "this role may not make jobs (%s): as the owner of the tables run %s", statementText(err), grants)
		}
		s.unscheduled.Fail(s.log, slog.LevelWarn, failing, "err", err)
		return lackingInterval
	}
	s.unscheduled.Fail(s.log, slog.LevelWarn, failing, "err", s.failed("make the jobs of schedules", err))
	return lookInterval
}

// errNoSchedules: the schema is of an earlier version.
var errNoSchedules = errors.New("there is no table reactor.schedules: run `reactor migrate up` as the owner of the database")

// lookFrom is where the looks of an instance begin in the index of look_at. Every update of a schedule
// leaves an entry there that an old snapshot keeps, and they lie before all others: an hour of 200
// schedules that tick each second is 72,000 of them, 14 ms for each look from the beginning.
//
// A schedule gets its look_at from an instance, which sets it to its present time or later; or it gets
// '-infinity' from the trigger, which is asked for by itself. So where the earliest schedule was at, or
// the present time if that is earlier, there will be none before, but for those of transactions that
// began earlier and had not committed: hence lookMargin. What else would break that, a clock that is set
// back or a failover that loses more than a minute, costs the time until the next search from the
// beginning. Nobody makes an occurrence twice because of it: the row decides.
type lookFrom struct {
	time     driver.DBTime
	searched time.Time // when it was read from the beginning; zero: never
}

// at is the first look_at, other than '-infinity', to be asked for.
func (f *lookFrom) at() driver.DBTime {
	if f.searched.IsZero() || time.Since(f.searched) > searchInterval {
		return driver.DistantPast
	}
	return f.time
}

// saw notes the earliest schedule that was found, at a time of the database.
func (f *lookFrom) saw(earliest, now driver.DBTime) {
	if f.at() == driver.DistantPast {
		f.searched = time.Now()
	}
	f.time = min(earliest, now).Add(-lookMargin)
}

// untilLookSQL finds the earliest schedule. The condition of the first part is no equality, which would
// make the order redundant, and the planner could choose to read the whole table.
const untilLookSQL = `
SELECT clock_timestamp(), coalesce((SELECT look_at FROM reactor.schedules WHERE look_at <= '-infinity' ORDER BY look_at LIMIT 1),
                                   (SELECT look_at FROM reactor.schedules WHERE look_at >= $1 ORDER BY look_at LIMIT 1), 'infinity')`

// untilLook returns how long nothing has to be done: 0 if something has to be done now. It does without the settings of
// background, which would be another statement each second.
func (s *Source) untilLook(ctx context.Context, from *lookFrom) (time.Duration, error) {
	var now, look dbTime
	err := s.work.row(ctx, untilLookSQL, []any{dbTime{from.at()}}, &now, &look)
	if sqlState(err) == pgerrcode.UndefinedTable {
		err = errNoSchedules
	}
	if err == nil {
		from.saw(max(look.DBTime, driver.DistantPast), now.DBTime)
	}
	return max(0, look.Sub(now.DBTime)), err
}

// scheduleRow is what plans need of a row of reactor.schedules, in the order of scheduleColumns.
type scheduleRow struct {
	Place                           string // ctid: it stays while the row is locked, up to our own update
	ID                              int64
	Name                            string
	Cron                            *string
	Every                           *int64 // all durations in microseconds
	Zone                            string
	StartAt, EndAt                  *time.Time
	Jitter                          int64
	Paused                          bool
	Overlap, CatchUp                string
	Window                          int64
	MaxLateness                     *int64
	Topic                           string
	Problem                         *string
	LastAt, NextAt                  *time.Time
	Overlapped                      int64
	CreatedAt, DecidedUntil, ReadAt time.Time
}

const scheduleColumns = `ctid::text, id, name, cron, (extract(epoch FROM every) * 1000000)::bigint, zone, start_at, end_at, (extract(epoch FROM jitter) * 1000000)::bigint, paused,
	overlap, catch_up, (extract(epoch FROM catch_up_window) * 1000000)::bigint, (extract(epoch FROM max_lateness) * 1000000)::bigint, topic,
	problem, last_at, CASE WHEN isfinite(next_at) THEN next_at END, overlapped, created_at, decided_until, clock_timestamp()`

// times parses when the schedule recurs.
func (r scheduleRow) times() (*schedule.Times, error) {
	spec := schedule.Spec{Zone: r.Zone, Anchor: r.CreatedAt.Truncate(time.Second)}
	if r.Cron != nil {
		if spec.Cron = *r.Cron; strings.TrimSpace(spec.Cron) == "" {
			return nil, errors.New("the cron expression is empty: use five or six fields")
		}
	}
	if r.Every != nil {
		spec.Every = time.Duration(*r.Every) * time.Microsecond
	}
	if r.StartAt != nil {
		spec.Start, spec.Anchor = *r.StartAt, *r.StartAt
	}
	if r.EndAt != nil {
		spec.End = *r.EndAt
	}
	return schedule.Parse(spec)
}

func (r scheduleRow) policy() schedule.Policy {
	p := schedule.Policy{
		CatchUp: schedule.CatchUp(r.CatchUp), Window: time.Duration(r.Window) * time.Microsecond,
		Jitter: time.Duration(r.Jitter) * time.Microsecond, ID: r.ID, Alone: r.Overlap == "skip",
	}
	if r.MaxLateness != nil {
		p.MaxLateness = time.Duration(*r.MaxLateness) * time.Microsecond
	}
	return p
}

// decision is what a look at a schedule has decided.
type decision struct {
	row     scheduleRow
	plan    schedule.Plan
	problem string
}

// makeOccurrences makes what is due of some schedules in one transaction. more says that there may be
// others. from is lookFrom.at.
func (s *Source) makeOccurrences(ctx context.Context, from driver.DBTime) (more bool, err error) {
	var decided []*decision
	err = s.background.tx(ctx, func(tx pgx.Tx) error {
		rows, err := lockSchedules(ctx, tx, from)
		if err != nil || len(rows) == 0 {
			return err
		}
		busy, err := s.busySchedules(ctx, tx, rows)
		if err != nil {
			return err
		}
		more = len(rows) == schedulesAtOnce
		decided = nil
		room := occurrencesAtOnce
		for _, row := range rows {
			d := &decision{row: row}
			decided = append(decided, d)
			times, err := row.times()
			if err != nil {
				d.problem = err.Error()
				continue
			}
			d.plan = times.Plan(row.policy(), horizon, row.DecidedUntil, row.ReadAt, busy[row.ID], min(room, occurrencesOfOne))
			room -= len(d.plan.Make)
			more = more || d.plan.Look.Equal(row.ReadAt)
		}
		if err := insertOccurrences(ctx, tx, decided); err != nil {
			return err
		}
		return recordDecisions(ctx, tx, decided)
	})
	if err != nil {
		return false, err
	}
	for _, d := range decided {
		// Logged by whoever has recorded it, so once for all instances.
		switch known := d.row.Problem != nil; {
		case d.problem != "" && (!known || *d.row.Problem != d.problem):
			s.log.Warn("a schedule makes no jobs", "schedule", d.row.Name, "problem", d.problem)
		case d.problem == "" && known:
			s.log.Info("a schedule makes jobs again", "schedule", d.row.Name)
		}
	}
	return more, nil
}

// lockChangedSQL and lockDueSQL lock schedules that are due: those that have been changed, and the others
// (lookFrom).
const (
	lockChangedSQL = "SELECT ctid::text FROM reactor.schedules WHERE look_at <= '-infinity' ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED"
	lockDueSQL     = "SELECT ctid::text FROM reactor.schedules WHERE look_at >= $2 AND look_at <= (SELECT clock_timestamp()) ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED"
)

// lockSchedules locks schedules that are due, and then reads them: a statement that locks may return what
// was in the row before, for anything that it computes. From then on they are found by their places
// (ctid), which the lock keeps from changing: a search by id would walk all versions that an old snapshot
// keeps.
func lockSchedules(ctx context.Context, tx pgx.Tx, from driver.DBTime) ([]scheduleRow, error) {
	rows, err := tx.Query(ctx, lockChangedSQL, schedulesAtOnce)
	if err != nil {
		return nil, err
	}
	places, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	if len(places) < schedulesAtOnce {
		// Without '-infinity': we have those already.
		if rows, err = tx.Query(ctx, lockDueSQL, schedulesAtOnce-len(places), dbTime{max(from, earliestTimestamp)}); err != nil {
			return nil, err
		}
		due, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		places = append(places, due...)
	}
	if len(places) == 0 {
		return nil, nil
	}
	if rows, err = tx.Query(ctx, "SELECT "+scheduleColumns+" FROM reactor.schedules WHERE ctid = ANY ($1::text[]::tid[]) ORDER BY look_at", places); err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[scheduleRow])
}

// busySchedules returns which of the schedules that must not overlap have a job that nobody has claimed.
// It asks only for those: in a table with partitions it costs a look into each.
func (s *Source) busySchedules(ctx context.Context, tx pgx.Tx, all []scheduleRow) (map[int64]bool, error) {
	var ids []int64
	for _, row := range all {
		if row.policy().Alone {
			ids = append(ids, row.ID)
		}
	}
	if ids == nil {
		return nil, nil
	}
	rows, err := tx.Query(ctx, "SELECT id FROM unnest($1::bigint[]) AS asked (id) WHERE EXISTS (SELECT FROM "+s.jobs().name+" AS job WHERE job.schedule_id = asked.id AND NOT job.processed)", ids)
	if err != nil {
		return nil, err
	}
	busy := map[int64]bool{}
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		busy[id] = true
		return nil
	})
	return busy, err
}

// insertOccurrences inserts the jobs of all plans in one statement. If the database refuses one of them,
// each schedule is tried by itself, and those that are refused get the reason as their problem: a topic
// that is too long once it is filled in, or a trigger of the application, harms no other schedule.
func insertOccurrences(ctx context.Context, tx pgx.Tx, decided []*decision) error {
	err := makeJobs(ctx, tx, decided...)
	if err == nil || !refusesJobs(err) {
		return err
	}
	for _, d := range decided {
		err := makeJobs(ctx, tx, d)
		if err == nil {
			continue
		}
		if !refusesJobs(err) {
			return err
		}
		d.problem = "its jobs are refused: " + statementText(err)
	}
	return nil
}

// makeJobs runs in a subtransaction, so that a refusal leaves the transaction usable.
func makeJobs(ctx context.Context, tx pgx.Tx, decided ...*decision) error {
	var (
		places    []string
		at, fires []time.Time
	)
	for _, d := range decided {
		for _, o := range d.plan.Make {
			places, at, fires = append(places, d.row.Place), append(at, o.At), append(fires, o.Fire)
		}
	}
	if places == nil {
		return nil
	}
	return pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error {
		_, err := sub.Exec(ctx, makeJobsSQL, places, at, fires)
		return err
	})
}

const makeJobsSQL = "SELECT count(*) FROM reactor.make_jobs($1::text[]::tid[], $2::timestamptz[], $3::timestamptz[])"

// refusesJobs reports whether an error is about the rows of a statement, or a trigger, and not about our
// rights, a lock, or the server.
func refusesJobs(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || connectionLost(err) || pgErr.Code == pgerrcode.InsufficientPrivilege || pgErr.Code == pgerrcode.UndefinedTable {
		return false
	}
	return refusesRow(pgErr) || pgerrcode.IsSyntaxErrororAccessRuleViolation(pgErr.Code)
}

// recordDecisions updates the schedules. One with a problem stays where it is.
func recordDecisions(ctx context.Context, tx pgx.Tx, decided []*decision) error {
	var (
		places           []string
		overlapped       []int64
		until            []time.Time
		look, last, next []*time.Time
		problems         []*string
	)
	for _, d := range decided {
		p := d.plan
		if d.problem != "" {
			p = schedule.Plan{Decided: d.row.DecidedUntil, Look: d.row.ReadAt.Add(problemInterval)}
		}
		var made time.Time
		if len(p.Make) > 0 {
			made = p.Make[len(p.Make)-1].At
		}
		places, overlapped, until = append(places, d.row.Place), append(overlapped, int64(p.Overlapped)), append(until, p.Decided)
		look, last, next, problems = append(look, unless0(storable(p.Look))), append(last, unless0(made)), append(next, unless0(storable(p.Next))), append(problems, unless0(d.problem))
	}
	_, err := tx.Exec(ctx, recordDecisionsSQL, places, until, look, last, next, overlapped, problems)
	return err
}

// recordDecisionsSQL raises step, by which the trigger tells our update from one of an application.
const recordDecisionsSQL = `
UPDATE reactor.schedules AS s
   SET decided_until = d.decided_until, look_at = coalesce(d.look_at, 'infinity'), last_at = coalesce(d.last_at, s.last_at), next_at = d.next_at,
       overlapped = s.overlapped + d.overlapped, problem = d.problem, step = s.step + 1
  FROM unnest($1::text[]::tid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::bigint[], $7::text[])
       AS d (place, decided_until, look_at, last_at, next_at, overlapped, problem)
 WHERE s.ctid = d.place`

// storable returns the last instant that can be written instead of a later one: pgx writes what is after
// 294247 as a time before Christ. A schedule may begin then.
func storable(t time.Time) time.Time {
	if latest := driver.DBTime(math.MaxInt64).Time(); t.After(latest) {
		return latest
	}
	return t
}

// unless0 passes a zero value as NULL.
func unless0[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}
