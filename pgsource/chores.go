package pgsource

import (
	"context"
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
