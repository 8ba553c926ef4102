package pgsource

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/schedule"
)

// What follows is what the functions of schedules.go and scheduleslist.go do, for a program that has a connection.

// schedules is inSchedules with the rights that it takes.
func (a *JobsAdmin) schedules(ctx context.Context, needs rights, do func(pgx.Tx) error) error {
	a.needs = needs
	return a.inSchedules(ctx, do)
}

// Schedules is FindSchedules, with the beginnings of the payloads: 1,024 characters, or bytes.
func (a *JobsAdmin) Schedules(ctx context.Context, filter ScheduleFilter) (list []Schedule, more bool, err error) {
	err = a.schedules(ctx, toSeeSchedules, func(tx pgx.Tx) (err error) {
		list, more, err = findSchedules(ctx, tx, filter, previewColumns)
		return err
	})
	return list, more, err
}

// Schedule is FindSchedule, with the beginning of the payload.
func (a *JobsAdmin) Schedule(ctx context.Context, name string) (found Schedule, err error) {
	err = a.schedules(ctx, toSeeSchedules, func(tx pgx.Tx) (err error) {
		found, err = readSchedule(ctx, tx, name, previewColumns)
		return err
	})
	return found, err
}

// NextOccurrences is the function of this name.
func (a *JobsAdmin) NextOccurrences(ctx context.Context, name string, n int) (list []schedule.Occurrence, zone *time.Location, err error) {
	err = a.schedules(ctx, toSeeSchedules, func(tx pgx.Tx) (err error) {
		list, zone, err = nextOccurrences(ctx, tx, name, n)
		return err
	})
	return list, zone, err
}

// PauseSchedule is the function of this name.
func (a *JobsAdmin) PauseSchedule(ctx context.Context, name string) error {
	return a.schedules(ctx, toChangeSchedules, func(tx pgx.Tx) error { return changeOne(ctx, tx, pauseSQL, name) })
}

// ResumeSchedule is the function of this name.
func (a *JobsAdmin) ResumeSchedule(ctx context.Context, name string) error {
	return a.schedules(ctx, toChangeSchedules, func(tx pgx.Tx) error { return changeOne(ctx, tx, resumeSQL, name) })
}

// RunSchedule is the function of this name.
func (a *JobsAdmin) RunSchedule(ctx context.Context, name string) (id int64, err error) {
	err = a.schedules(ctx, toRunSchedules, func(tx pgx.Tx) (err error) {
		id, err = runSchedule(ctx, tx, name)
		return err
	})
	return id, err
}
