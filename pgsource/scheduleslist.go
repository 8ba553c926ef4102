package pgsource

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ScheduleState is what a schedule does.
type ScheduleState string

// The states of a schedule.
const (
	ScheduleActive  ScheduleState = "active"
	SchedulePaused  ScheduleState = "paused"
	ScheduleProblem ScheduleState = "problem" // it has no occurrences; Schedule.Problem says why
	ScheduleEnded   ScheduleState = "ended"   // it does not occur any more
)

// ScheduleStates are all states.
var ScheduleStates = []ScheduleState{ScheduleActive, SchedulePaused, ScheduleProblem, ScheduleEnded}

// scheduleStateSQL is the state of a row. A schedule that is not paused and need never be looked at has ended.
const scheduleStateSQL = "CASE WHEN paused THEN 'paused' WHEN problem IS NOT NULL THEN 'problem' WHEN look_at = 'infinity'::timestamptz THEN 'ended' ELSE 'active' END"

// ScheduleFilter selects schedules. The zero value selects all.
type ScheduleFilter struct {
	// States are those that are wanted; empty: all.
	States []ScheduleState
	// NamePrefix and TopicPrefix are what the name, and the topic as it is written in the schedule, begin with.
	NamePrefix, TopicPrefix string
	// From and Until bound the first occurrence that was not made yet, the second not included. nil: no bound.
	From, Until *driver.DBTime
	// After is the name after which the list begins, Limit the largest number of schedules; 0: no limit.
	After string
	Limit int
}

// ListSchedules returns all schedules, in order of their names.
func ListSchedules(ctx context.Context, databaseURL string) ([]Schedule, error) {
	list, _, err := FindSchedules(ctx, databaseURL, ScheduleFilter{})
	return list, err
}

// FindSchedules returns the schedules that pass a filter, in order of their names, and whether there are more behind
// the last of them. It reads all rows up to there.
func FindSchedules(ctx context.Context, databaseURL string, filter ScheduleFilter, of ...Names) (list []Schedule, more bool, err error) {
	err = withSchedules(ctx, databaseURL, of, toSeeSchedules, true, func(tx pgx.Tx) (err error) {
		list, more, err = findSchedules(ctx, tx, filter, messageColumns)
		return err
	})
	return list, more, err
}

func findSchedules(ctx context.Context, tx pgx.Tx, filter ScheduleFilter, columns string) (list []Schedule, more bool, err error) {
	var args parameters
	var conditions []string
	if len(filter.States) > 0 {
		words := make([]string, len(filter.States))
		for i, state := range filter.States {
			if words[i] = string(state); !slices.Contains(ScheduleStates, state) {
				return nil, false, &driver.ConfigError{Field: "States", Value: state, Problem: "which does not exist"}
			}
		}
		conditions = append(conditions, "("+scheduleStateSQL+") = ANY ("+args.add(words, "text[]")+")")
	}
	if filter.NamePrefix != "" {
		conditions = append(conditions, "name ^@ "+args.add(filter.NamePrefix, "text"))
	}
	if filter.TopicPrefix != "" {
		conditions = append(conditions, "topic ^@ "+args.add(filter.TopicPrefix, "text"))
	}
	if filter.From != nil {
		conditions = append(conditions, "isfinite(next_at) AND next_at >= "+args.at(*filter.From))
	}
	if filter.Until != nil {
		conditions = append(conditions, "next_at < "+args.at(*filter.Until))
	}
	if filter.After != "" {
		conditions = append(conditions, "name > "+args.add(filter.After, "text"))
	}
	limit := ""
	if filter.Limit > 0 {
		limit = fmt.Sprintf(" LIMIT %d", filter.Limit+1) // one more shows whether there are more
	}
	list, err = readSchedules(ctx, tx, columns, and(conditions), limit, args...)
	if err == nil && filter.Limit > 0 && len(list) > filter.Limit {
		list, more = list[:filter.Limit], true
	}
	return list, more, err
}

// DatabaseTime reads the clock of a database, to which the times of jobs and schedules refer.
func DatabaseTime(ctx context.Context, databaseURL string, of ...Names) (now driver.DBTime, err error) {
	err = withConnection(ctx, databaseURL, only(of), true, func(conn *pgx.Conn) error {
		return inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
				return err
			}
			return tx.QueryRow(ctx, "SELECT "+micros("clock_timestamp()")).Scan(&now)
		})
	})
	return now, err
}
