package pgsource

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// ScheduleID returns the id of a schedule, for JobFilter. A text that is no name of one is taken for an id, so that
// the jobs of a schedule can be found that was deleted; otherwise it is ErrNoSchedule.
func (a *JobsAdmin) ScheduleID(ctx context.Context, name string) (id int64, err error) {
	a.needs = a.needs.and(toSeeSchedules)
	err = a.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT id FROM reactor.schedules WHERE name = $1::text", name).Scan(&id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		// Ids begin with 1: in a filter, 0 stands for the jobs of all schedules, and of none.
		if id, err = strconv.ParseInt(name, 10, 64); err != nil || id < 1 {
			return 0, ErrNoSchedule
		}
	}
	return id, err
}

// nameSchedules sets the names of the schedules of jobs, where they still exist.
func nameSchedules(ctx context.Context, tx pgx.Tx, jobs []*Job) error {
	var ids []int64
	for _, j := range jobs {
		if j.Schedule != 0 {
			ids = append(ids, j.Schedule)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, "SELECT id, name FROM reactor.schedules WHERE id = ANY ($1::bigint[])", ids)
	if err != nil {
		return err
	}
	names := map[int64]string{}
	var (
		id   int64
		name string
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		names[id] = name
		return nil
	}); err != nil {
		return err
	}
	for _, j := range jobs {
		j.ScheduleName = names[j.Schedule]
	}
	return nil
}
