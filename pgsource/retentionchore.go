package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// retentionInterval is the time between two rounds. A round goes on until nothing is left to delete.
	retentionInterval = time.Minute
	// orphansInterval is the time between two searches for records without a row, which read all records.
	orphansInterval = time.Hour
	// retentionTimeout bounds a round; the creation of an index takes long.
	retentionTimeout = time.Hour
)

// startRetention deletes the rows of jobs that have ended, if it is time, and the records that no row
// belongs to any more. It uses a connection of its own, as the maintenance of the partitions does: the
// lock that lets one instance do it belongs to the session.
func (s *Source) startRetention(ctx context.Context) {
	if s.cfg.Retain == 0 && s.cfg.RetainPartitions == 0 || !s.retaining.CompareAndSwap(false, true) {
		return
	}
	now := time.Now()
	if now.Before(s.nextRetention) {
		s.retaining.Store(false)
		return
	}
	s.nextRetention = now.Add(retentionInterval)
	orphans := !now.Before(s.nextOrphans)
	if s.cfg.Retain == 0 && !orphans {
		s.retaining.Store(false)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retentionTimeout)
	s.chores.Go(func() {
		defer s.retaining.Store(false)
		defer cancel()
		defer context.AfterFunc(s.closing, cancel)()
		_, err := Retention{
			DatabaseURL: s.cfg.DatabaseURL, Names: s.cfg.deployment(), Keep: s.cfg.Retain, ByIndexOnly: true, createIndexes: true, orphansOnly: s.cfg.Retain == 0, rowsOnly: !orphans,
			Tell: func(rows int64) { s.log.Debug("jobs that have ended were deleted", "jobs", rows) },
			Skip: func(id int64, why error) {
				s.undeletable.Fail(s.log, slog.LevelWarn, "a job that has ended cannot be deleted, and is kept", "job", id, "err", statementText(why))
			},
			lacksIndex: func(table string, why error) {
				s.unindexed.Fail(s.log, slog.LevelWarn, "jobs that have ended are not deleted: their table lacks the index for that, and this instance did not create it, because its role does not own the table, or its connection leads through a pooler, or the creation failed: run the statement as the owner of the table",
					"statement", RetentionIndexSQL(table), "err", why)
			},
		}.Purge(ctx)
		switch {
		case err == nil:
			if orphans {
				s.nextOrphans = now.Add(orphansInterval)
			}
			s.unretained.OK(s.log, "jobs that have ended are deleted again")
		case ctx.Err() != nil, errors.Is(err, ErrPurging):
		default:
			s.unretained.Fail(s.log, slog.LevelWarn, "jobs that have ended are not deleted", "err", err)
		}
	})
}
