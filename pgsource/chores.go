package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Chores are periodic work that nothing waits for. Each beat starts the chores that are due. They
// run beside the beat, on a connection of their own, so that an instance does not look dead because
// a chore takes long or waits for a lock on the table jobs.

const (
	// purgeInterval is the time between two purges of retries, and between two checks of the table.
	purgeInterval = time.Minute
	// choresTimeout bounds one round of chores.
	choresTimeout = 30 * time.Second
)

// startChores starts a round of chores if any is due and no round is running.
func (s *Source) startChores(ctx context.Context) {
	s.startMaintenance(ctx)
	s.startScheduling()
	s.startRetention(ctx)
	now := time.Now()
	if !s.tending.CompareAndSwap(false, true) {
		return
	}
	returns := s.returnsWait.Load() || !now.Before(s.nextReturns)
	purge := !now.Before(s.nextPurge)
	look := s.tableGone.Swap(false)
	raise := s.starts.due()
	if !returns && !purge && !look && len(raise) == 0 {
		s.tending.Store(false)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), choresTimeout)
	s.chores.Go(func() {
		defer s.tending.Store(false)
		defer cancel()
		defer context.AfterFunc(s.closing, cancel)()
		// First, because the rest may wait for locks.
		for _, lane := range raise {
			if err := s.raiseStart(ctx, lane); err != nil && ctx.Err() == nil {
				s.log.Debug("the journal of a lane is read from further back than needed", "lane", lane, "err", err)
			}
		}
		if returns {
			s.nextReturns = now.Add(returnsInterval)
			if err := s.lookAfterReturns(ctx); err != nil && ctx.Err() == nil {
				s.log.Debug("jobs wait for their return to the table", "err", err)
			}
		}
		if purge || look {
			s.watchTable(ctx)
			s.requestFeedCheck()
		}
		if purge {
			s.nextPurge = now.Add(purgeInterval)
			if err := s.purgeRetries(ctx); err != nil && ctx.Err() == nil {
				s.log.Debug("retries are not purged", "err", err)
			}
		}
	})
}

const (
	// maintenanceInterval is the time between two looks at the partitions.
	maintenanceInterval = 10 * time.Minute
	// maintenancePatience is how long one change of them is tried.
	maintenancePatience = 5 * time.Second
	// maintenanceTimeout bounds a round; a default partition with many rows takes long.
	maintenanceTimeout = 5 * time.Minute
)

// startMaintenance maintains the partitions, if it is time and the table has any. It uses a connection
// of its own: moving jobs out of the default partition may take longer than our statements may.
func (s *Source) startMaintenance(ctx context.Context) {
	if s.cfg.PartitionsAhead == NoPartitions || !s.jobs().tree || !s.maintaining.CompareAndSwap(false, true) {
		return
	}
	now := time.Now()
	if now.Before(s.nextMaintenance) {
		s.maintaining.Store(false)
		return
	}
	s.nextMaintenance = now.Add(maintenanceInterval)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maintenanceTimeout)
	s.chores.Go(func() {
		defer s.maintaining.Store(false)
		defer cancel()
		defer context.AfterFunc(s.closing, cancel)()
		err := Partitions{
			DatabaseURL: s.cfg.DatabaseURL, Names: s.cfg.deployment(), Ahead: s.cfg.PartitionsAhead, Retain: s.cfg.RetainPartitions, Patience: maintenancePatience,
			by: s, Tell: func(step string) { s.log.Info("the partitions were maintained", "change", step) },
		}.Maintain(ctx)
		switch {
		case err == nil:
			s.unmaintained.OK(s.log, "the partitions are maintained again")
		case ctx.Err() != nil, errors.Is(err, ErrNotPartitioned):
		default:
			s.unmaintained.Fail(s.log, slog.LevelWarn, "the partitions of the table are not maintained: run `reactor partitions maintain` as the owner of the table, and set pgsource.Config.PartitionsAhead to NoPartitions", "err", err)
		}
	})
}
