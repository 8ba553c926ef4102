package pgsource

import (
	"context"
	"time"
)

// chores are what has to be done now and then, and what nobody waits for. Each beat starts
// them where their time has come; they run beside it, on a connection of their own, so
// that nothing that takes long, or waits for a lock on the table jobs, makes an instance
// look dead.

const (
	// purgeInterval is the time between two purges of retries, and two looks at the table.
	purgeInterval = time.Minute
	// choresPatience bounds one round.
	choresPatience = 30 * time.Second
)

// tend starts a round, unless one is under way.
func (s *Source) tend(ctx context.Context) {
	now := time.Now()
	if !s.tending.CompareAndSwap(false, true) {
		return
	}
	returns := s.returnsWait.Load() || !now.Before(s.nextReturns)
	purge := !now.Before(s.nextPurge)
	look := s.tableGone.Swap(false)
	if !returns && !purge && !look {
		s.tending.Store(false)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), choresPatience)
	s.chores.Go(func() {
		defer s.tending.Store(false)
		defer cancel()
		defer context.AfterFunc(s.closing, cancel)()
		if returns {
			s.nextReturns = now.Add(returnsInterval)
			if err := s.lookAfterReturns(ctx); err != nil && ctx.Err() == nil {
				s.log.Debug("jobs wait for their return to the table", "err", err)
			}
		}
		if purge || look {
			s.watchTable(ctx)
			s.lookAgain()
		}
		if purge {
			s.nextPurge = now.Add(purgeInterval)
			if err := s.purgeRetries(ctx); err != nil && ctx.Err() == nil {
				s.log.Debug("retries are not purged", "err", err)
			}
		}
	})
}
