package pgsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/zones"
	"github.com/job-publisher/reactor/schedule"
)

// What follows is for people and programs that manage schedules from Go. It does nothing that SQL could
// not do, except for what needs to know when a schedule recurs: NextOccurrences and Backfill.

// Schedule is a row of reactor.schedules. AddSchedule ignores the fields from State on.
type Schedule struct {
	Name string
	// Cron is an expression (see package schedule); Every an interval of whole seconds. One of them is
	// given.
	Cron  string
	Every time.Duration
	Zone  string // of Cron, by its name in the IANA database; defaults to UTC
	// StartAt and EndAt bound the occurrences; zero: no bound. EndAt itself is too late.
	StartAt, EndAt time.Time
	Jitter         time.Duration
	Paused         bool
	Overlap        string // allow (the default) or skip
	// CatchUp is skip, once (the default) or all: those of CatchUpWindow, which defaults to a day.
	CatchUp       schedule.CatchUp
	CatchUpWindow time.Duration
	MaxLateness   time.Duration // 0: any
	Message       ScheduleMessage

	// State is paused, problem, ended (it does not occur any more) or active.
	State ScheduleState
	// Problem says why it has no occurrences; "" if nothing is wrong.
	Problem string
	// LastAt is the latest occurrence that was made, NextAt the first that was not yet; zero: none.
	LastAt, NextAt time.Time
	// Overlapped is how many occurrences were left out because of Overlap.
	Overlapped int64
	CreatedAt  time.Time
}

// ScheduleMessage is what a schedule publishes: the columns of jobs of the same names, with placeholders in
// Topic, Payload and the values of Headers.
type ScheduleMessage struct {
	Topic, Payload  string
	PayloadBytes    []byte
	QoS             *int // nil: that of the deployment
	Retain          bool
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	Headers         map[string]string
	OrderingKey     string
}

// ErrNoSchedule: there is no schedule with the given name.
var ErrNoSchedule = errors.New("there is no such schedule: `reactor schedules list` lists them")

// messageColumns follow scheduleColumns where a whole Schedule is read.
const messageColumns = ", payload, payload_bytes, qos::integer, retain, coalesce(content_type, ''), coalesce(response_topic, ''), correlation_data, headers, coalesce(ordering_key, ''), " + scheduleStateSQL

// previewColumns are messageColumns with the beginning of the payload, which may have 256 MB.
var previewColumns = strings.Replace(messageColumns, ", payload, payload_bytes,", fmt.Sprintf(", left(payload, %d), substring(payload_bytes FROM 1 FOR %[1]d),", PreviewBytes), 1)

// FindSchedule returns a schedule; ErrNoSchedule if there is none with that name.
func FindSchedule(ctx context.Context, databaseURL, name string, of ...Names) (found Schedule, err error) {
	err = withSchedules(ctx, databaseURL, of, toSeeSchedules, true, func(tx pgx.Tx) (err error) {
		found, err = readSchedule(ctx, tx, name, messageColumns)
		return err
	})
	return found, err
}

func readSchedule(ctx context.Context, tx pgx.Tx, name, columns string) (found Schedule, err error) {
	list, err := readSchedules(ctx, tx, columns, "name = $1", "", name)
	if err == nil && len(list) == 0 {
		err = ErrNoSchedule
	}
	if err != nil {
		return found, err
	}
	return list[0], nil
}

// readSchedules reads schedules in order of their names, with messageColumns or previewColumns; where may end with a LIMIT.
func readSchedules(ctx context.Context, tx pgx.Tx, columns, where, limit string, args ...any) (list []Schedule, err error) {
	rows, err := tx.Query(ctx, "SELECT "+scheduleColumns+columns+" FROM reactor.schedules WHERE "+where+" ORDER BY name"+limit, args...)
	if err != nil {
		return nil, err
	}
	type wholeRow struct {
		scheduleRow
		Payload                    string
		PayloadBytes               []byte
		QoS                        *int
		Retain                     bool
		ContentType, ResponseTopic string
		CorrelationData            []byte
		Headers                    map[string]string
		OrderingKey                string
		State                      ScheduleState
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[wholeRow])
	for _, r := range found {
		p := r.policy()
		list = append(list, Schedule{
			Name: r.Name, Cron: or0(r.Cron), Every: time.Duration(or0(r.Every)) * time.Microsecond, Zone: r.Zone, StartAt: or0(r.StartAt), EndAt: or0(r.EndAt),
			Jitter: p.Jitter, Paused: r.Paused, Overlap: r.Overlap, CatchUp: p.CatchUp, CatchUpWindow: p.Window, MaxLateness: p.MaxLateness,
			Message: ScheduleMessage{
				Topic: r.Topic, Payload: r.Payload, PayloadBytes: r.PayloadBytes, QoS: r.QoS, Retain: r.Retain,
				ContentType: r.ContentType, ResponseTopic: r.ResponseTopic, CorrelationData: r.CorrelationData, Headers: r.Headers, OrderingKey: r.OrderingKey,
			},
			State: r.State, Problem: or0(r.Problem), LastAt: or0(r.LastAt), NextAt: or0(r.NextAt), Overlapped: r.Overlapped, CreatedAt: r.CreatedAt,
		})
	}
	return list, err
}

// or0 reads NULL as the zero value.
func or0[T any](value *T) (v T) {
	if value != nil {
		v = *value
	}
	return v
}

// AddSchedule inserts a schedule. An expression or a zone that cannot be used is refused here; one that is
// inserted by SQL is reported in its column problem.
func AddSchedule(ctx context.Context, databaseURL string, s Schedule, of ...Names) error {
	setDefault(&s.Zone, "UTC")
	setDefault(&s.Overlap, "allow")
	setDefault(&s.CatchUp, schedule.CatchUpOnce)
	setDefault(&s.CatchUpWindow, 24*time.Hour)
	if s.Cron != "" || s.Every != 0 { // the table says that one of them is missing
		if _, err := schedule.Parse(schedule.Spec{Cron: s.Cron, Every: s.Every, Zone: s.Zone}); err != nil {
			return err
		}
		// An interval has no use for a zone, and its placeholders have.
		if _, err := zones.Load(s.Zone); err != nil || s.Zone == "Local" {
			return fmt.Errorf("the zone %q is not known here: use a name of the IANA database, such as Europe/Berlin", s.Zone)
		}
	}
	m := s.Message
	var headers *string
	if m.Headers != nil {
		text, err := json.Marshal(m.Headers)
		if err != nil {
			return err
		}
		headers = unless0(string(text))
	}
	return withSchedules(ctx, databaseURL, of, toAddSchedules, false, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO reactor.schedules (name, cron, every, zone, start_at, end_at, jitter, paused, overlap, catch_up, catch_up_window, max_lateness,
			    topic, payload, payload_bytes, qos, retain, content_type, response_topic, correlation_data, headers, ordering_key)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21::text::jsonb, $22)`,
			s.Name, unless0(s.Cron), optionalInterval(s.Every), s.Zone, unless0(s.StartAt), unless0(s.EndAt), interval(s.Jitter), s.Paused, s.Overlap, string(s.CatchUp), interval(s.CatchUpWindow), optionalInterval(s.MaxLateness),
			m.Topic, m.Payload, m.PayloadBytes, m.QoS, m.Retain, unless0(m.ContentType), unless0(m.ResponseTopic), m.CorrelationData, headers, unless0(m.OrderingKey))
		if sqlState(err) == pgerrcode.UniqueViolation {
			return explained(err, "there is a schedule %q already: delete it first, or change it (UPDATE reactor.schedules)", s.Name)
		}
		return err
	})
}

// optionalInterval passes 0 as NULL.
func optionalInterval(d time.Duration) any {
	if d == 0 {
		return nil
	}
	return interval(d)
}

// PauseSchedule pauses a schedule: its jobs that were not claimed are deleted at once.
func PauseSchedule(ctx context.Context, databaseURL, name string, of ...Names) error {
	return changeSchedule(ctx, databaseURL, toChangeSchedules, pauseSQL, name, of)
}

// ResumeSchedule ends a pause. Occurrences of the pause are not made up for.
func ResumeSchedule(ctx context.Context, databaseURL, name string, of ...Names) error {
	return changeSchedule(ctx, databaseURL, toChangeSchedules, resumeSQL, name, of)
}

// DeleteSchedule deletes a schedule, and its jobs that were not claimed.
func DeleteSchedule(ctx context.Context, databaseURL, name string, of ...Names) error {
	return changeSchedule(ctx, databaseURL, toDeleteSchedules, deleteScheduleSQL, name, of)
}

func changeSchedule(ctx context.Context, databaseURL string, needs rights, sql, name string, of []Names) error {
	return withSchedules(ctx, databaseURL, of, needs, false, func(tx pgx.Tx) error { return changeOne(ctx, tx, sql, name) })
}

const (
	pauseSQL          = "UPDATE reactor.schedules SET paused = true WHERE name = $1"
	resumeSQL         = "UPDATE reactor.schedules SET paused = false WHERE name = $1"
	deleteScheduleSQL = "DELETE FROM reactor.schedules WHERE name = $1"
)

func changeOne(ctx context.Context, tx pgx.Tx, sql, name string) error {
	tag, err := tx.Exec(ctx, sql, name)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNoSchedule
	}
	return err
}

// RunSchedule inserts one job of a schedule that is due now, beside its occurrences, and returns the id
// of the job. A paused schedule can be run as well.
func RunSchedule(ctx context.Context, databaseURL, name string, of ...Names) (id int64, err error) {
	err = withSchedules(ctx, databaseURL, of, toRunSchedules, false, func(tx pgx.Tx) (err error) {
		id, err = runSchedule(ctx, tx, name)
		return err
	})
	return id, err
}

func runSchedule(ctx context.Context, tx pgx.Tx, name string) (id int64, err error) {
	err = tx.QueryRow(ctx, "SELECT reactor.run_schedule($1)", name).Scan(&id)
	if sqlState(err) == pgerrcode.NoDataFound {
		err = ErrNoSchedule
	}
	return id, err
}

// NextOccurrences returns the next n occurrences of a schedule from now on, on the database's clock, or
// as many as there are. It counts those whose jobs have been made already, and those that a pause will
// suppress.
func NextOccurrences(ctx context.Context, databaseURL, name string, n int, of ...Names) (list []schedule.Occurrence, zone *time.Location, err error) {
	err = withSchedules(ctx, databaseURL, of, toSeeSchedules, true, func(tx pgx.Tx) (err error) {
		list, zone, err = nextOccurrences(ctx, tx, name, n)
		return err
	})
	return list, zone, err
}

func nextOccurrences(ctx context.Context, tx pgx.Tx, name string, n int) (list []schedule.Occurrence, zone *time.Location, err error) {
	row, times, err := readTimes(ctx, tx, "", name)
	if err != nil {
		return nil, nil, err
	}
	for next, ok := times.Next(row.ReadAt); ok && len(list) < n; next, ok = times.Next(next) {
		list = append(list, schedule.Occurrence{At: next, Fire: next.Add(schedule.Jitter(row.ID, next, row.policy().Jitter))})
	}
	return list, times.Zone(), nil
}

// mostBackfilled bounds the occurrences of one Backfill, which is one transaction.
const mostBackfilled = 100_000

// Backfill makes the occurrences of a schedule in the past, from included, to not. Their jobs are due now, each a
// microsecond after the one before, in the order of the occurrences. That is the order in which they are taken up,
// and not the one in which they arrive: jobs without an OrderingKey are published beside each other. Placeholders get
// the time of the occurrence. It makes none of which there is a job in the table, claimed or not, so it can be
// repeated: there are of those whose jobs were purged.
//
// Instances make the occurrences that are not decided yet, by the schedule's rule for catching up. So a
// range that reaches there is refused, unless the schedule is paused.
//
// All is one transaction, under the lock of the schedule's row: no instance makes occurrences of it
// meanwhile, and if we die before the commit, nothing has happened.
func Backfill(ctx context.Context, databaseURL, name string, from, to time.Time, of ...Names) (made int, err error) {
	return backfill(ctx, databaseURL, of, name, from, to, makeJobs)
}

// CountBackfill returns how many jobs Backfill would make now, or why it would not.
func CountBackfill(ctx context.Context, databaseURL, name string, from, to time.Time, of ...Names) (jobs int, err error) {
	return backfill(ctx, databaseURL, of, name, from, to, func(context.Context, pgx.Tx, ...*decision) error { return nil })
}

func backfill(ctx context.Context, databaseURL string, of []Names, name string, from, to time.Time, do func(context.Context, pgx.Tx, ...*decision) error) (made int, err error) {
	err = withSchedules(ctx, databaseURL, of, toRunSchedules, false, func(tx pgx.Tx) error {
		row, times, err := readTimes(ctx, tx, "FOR UPDATE", name)
		if err != nil {
			return err
		}
		if to.After(row.ReadAt) {
			return fmt.Errorf("the range ends at %s, after the database's present time %s: give one in the past", to.Format(time.RFC3339), row.ReadAt.Format(time.RFC3339))
		}
		if next, ok := times.Next(row.DecidedUntil); ok && !row.Paused && next.Before(to) {
			return fmt.Errorf("the instances have not decided yet about the occurrences from %s on: end the range there, or pause the schedule", next.In(times.Zone()).Format(time.RFC3339))
		}
		there, err := occurrencesIn(ctx, tx, row.ID, from, to)
		if err != nil {
			return err
		}
		d := &decision{row: row}
		due := row.ReadAt
		for next, ok := times.Next(from.Add(-time.Nanosecond)); ok && next.Before(to); next, ok = times.Next(next) {
			if there[next.UnixMicro()] {
				continue
			}
			d.plan.Make = append(d.plan.Make, schedule.Occurrence{At: next, Fire: due})
			due = due.Add(time.Microsecond)
			if len(d.plan.Make) > mostBackfilled {
				return fmt.Errorf("the range has more than %d occurrences: give a shorter one", mostBackfilled)
			}
		}
		made = len(d.plan.Make)
		return do(ctx, tx, d)
	})
	if err != nil {
		made = 0
	}
	return made, err
}

// occurrencesIn returns the occurrences of which there are jobs.
func occurrencesIn(ctx context.Context, tx pgx.Tx, id int64, from, to time.Time) (map[int64]bool, error) {
	var home string
	if err := tx.QueryRow(ctx, "SELECT jobs_schema FROM reactor.deployment").Scan(&home); err != nil {
		return nil, err
	}
	var parts []string
	for _, state := range []string{"processed", "NOT processed"} { // there is an index for each
		parts = append(parts, "SELECT occurrence_at FROM "+qualified(txNames(tx), home)+" WHERE schedule_id = $1 AND occurrence_at IS NOT NULL AND occurrence_at >= $2 AND occurrence_at < $3 AND "+state)
	}
	rows, err := tx.Query(ctx, parts[0]+" UNION ALL "+parts[1], id, from, to)
	if err != nil {
		return nil, err
	}
	there := map[int64]bool{}
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&at}, func() error {
		there[at.UnixMicro()] = true
		return nil
	})
	return there, err
}

// readTimes reads a schedule, and parses when it recurs. With lock, the row is read after it was locked.
func readTimes(ctx context.Context, tx pgx.Tx, lock, name string) (row scheduleRow, times *schedule.Times, err error) {
	if lock != "" {
		if _, err := tx.Exec(ctx, "SELECT FROM reactor.schedules WHERE name = $1 "+lock, name); err != nil {
			return row, nil, err
		}
	}
	rows, err := tx.Query(ctx, "SELECT "+scheduleColumns+" FROM reactor.schedules WHERE name = $1", name)
	if err != nil {
		return row, nil, err
	}
	row, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[scheduleRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return row, nil, ErrNoSchedule
	}
	if err == nil {
		times, err = row.times()
	}
	return row, times, err
}

// withSchedules connects for inSchedules.
func withSchedules(ctx context.Context, databaseURL string, of []Names, needs rights, look bool, do func(pgx.Tx) error) error {
	return withConnection(ctx, databaseURL, only(of), look, func(conn *pgx.Conn) error {
		a := &JobsAdmin{conn: conn, needs: needs}
		return explainRights(ctx, conn, needs, a.inSchedules(ctx, do))
	})
}

// inSchedules runs a transaction in which only PostgreSQL's own functions and operators are found. It waits for the lock
// of a schedule as long as an instance makes its jobs.
func (a *JobsAdmin) inSchedules(ctx context.Context, do func(pgx.Tx) error) error {
	err := inMigrationTx(ctx, a.conn, func(tx pgx.Tx) error {
		if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"+a.limits); err != nil {
			return err
		}
		return do(tx)
	})
	switch sqlState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction, pgerrcode.UndefinedColumn, pgerrcode.InvalidSchemaName:
		return explained(err, "the database has no schedules, or the schema is of an earlier version: run `reactor migrate up` as the owner of the database")
	case pgerrcode.CheckViolation:
		// The name of the constraint is the rule.
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.ConstraintName != "" {
			return explained(err, "the schedule is refused: %s", pgErr.ConstraintName)
		}
		return explained(err, "the schedule is refused: %s", statementText(err))
	}
	return err
}
