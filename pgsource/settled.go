package pgsource

import (
	"context"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
)

// settled finds out which writes are visible for good. Whoever has written a row has a transaction
// id. So if no id that was given out before an instant belongs to a transaction that is open,
// whatever was written before that instant is committed, or never will be. One instant is watched
// at a time: when all ids of before have ended, it is settled, and the next one is watched. Under a
// load of short transactions the answer lags behind by one interval between two questions.
//
// Transactions that only read have no id. So the snapshot of a backup, or of a report, which keeps
// all dead rows, does not hold this up.
type settled struct {
	mu       sync.Mutex
	at       driver.DBTime // guarded by mu: the answer
	watching bool          // guarded by mu
	watched  driver.DBTime // guarded by mu: the instant, if watching
	nextID   int64         // guarded by mu: the first id that may be from after that instant
}

// settledSQL returns an instant, the lowest id of an open transaction at that instant or later, and
// the next one to be given out. now() is when the transaction began, and the snapshot was taken
// after that; statement_timestamp() may be later than the snapshot.
const settledSQL = `
SELECT now(), pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() AS s`

// Settled implements driver.Loader.
func (s *Source) Settled(ctx context.Context) (driver.DBTime, error) {
	var (
		now            dbTime
		oldest, nextID int64
	)
	if err := s.hot.row(ctx, settledSQL, nil, &now, &oldest, &nextID); err != nil {
		return driver.DistantPast, s.failed("look for open transactions", err)
	}
	return s.settled.observe(now.DBTime, oldest, nextID), nil
}

func (s *settled) observe(now driver.DBTime, oldest, nextID int64) driver.DBTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watching && now < s.watched || now < s.at { // the clock was set back, and these instants are still to come
		s.at, s.watching = driver.DistantPast, false
	}
	switch {
	case oldest >= nextID: // nothing is open
		s.at, s.watching = now, false
	case !s.watching:
		s.watching, s.watched, s.nextID = true, now, nextID
	case oldest >= s.nextID:
		s.at, s.watched, s.nextID = s.watched, now, nextID
	}
	return s.at
}

// forget forgets all ids: another server has others.
func (s *settled) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.watching = driver.DistantPast, false
}
