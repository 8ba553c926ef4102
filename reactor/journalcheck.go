package reactor

import (
	"context"
)

// A failover that loses the last commits brings batches back into the journal that have
// long been settled. Nobody knows them: the lane has forgotten them and goes on taking
// slots, among them those that they stand for, and whoever recovered it would find two
// batches in one place. So each lane holds its journal against what it knows whenever the
// database may be another one, and where there is more in it, begins anew, with all that is
// in the journal. What had been published of that is published twice then: which it was,
// is what the failover has lost.

// doubtJournal has the lane hold its journal against what it knows: the database may be another
// one than before. Nothing is claimed until that is done. It may be called from any goroutine.
// A lane that has not read its journal yet is going to.
func (r *laneRunner) doubtJournal() {
	if r.readsJournal.Load() {
		r.lane.doubt()
		r.checkNow.Set()
	}
}

// checkJournal looks whenever it is told to, until ctx ends. An error says that the journal, or
// the lease, is not what it was. Nothing is claimed meanwhile, for slots may not be what they seem.
//
// It looks twice. A batch that was read and is not known any more may have been settled in
// between; one that is still there then was not.
func (r *laneRunner) checkJournal(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.checkNow:
			r.lane.doubt() // it may have been told to while it looked, and trusted after that
		}
		first, err := r.unknownBatches(ctx)
		if err == nil && len(first) > 0 {
			var second map[[16]byte]bool
			second, err = r.unknownBatches(ctx)
			for token := range second {
				if first[token] {
					r.log.Warn("the journal holds batches that were settled: the database has lost its last commits, and some messages will be sent twice", "lane", r.lane.leaseNow().Lane)
					return errJournalChanged
				}
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// The lease is lost. Nobody but us may notice: the lane's row can have our name and an
			// older epoch, and no claim is made that would find it out.
			return err
		}
		r.lane.trust()
	}
}

// unknownBatches reads the journal and returns the tokens of the batches in it that are not the
// lane's.
func (r *laneRunner) unknownBatches(ctx context.Context) (map[[16]byte]bool, error) {
	batches, err := r.readUnsettled(ctx)
	if err != nil {
		return nil, err
	}
	return r.lane.unknown(batches), nil
}
