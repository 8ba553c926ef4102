package reactor

import (
	"context"
)

// A failover that loses the last commits brings batches back into the journal that were settled
// long ago. The lane has forgotten them and goes on taking slots, theirs included; whoever
// recovered the lane would find two batches in the same slots. So each lane compares its
// journal with its memory whenever the database may be another one. If the journal holds
// unknown batches, the lane is taken anew, with all that is in the journal. Jobs of these
// batches that had been published are published twice then: the failover has lost which ones
// they were.

// doubtJournal makes the lane compare its journal with its memory, as the database may be
// another one than before. The lane claims nothing until that is done. Any goroutine may call
// it. A lane that has not read its journal yet will read it anyway.
func (r *laneRunner) doubtJournal() {
	if r.readsJournal.Load() {
		r.lane.doubt()
		r.checkNow.Set()
	}
}

// checkJournal checks the journal on each request, until ctx ends. An error says that the
// journal or the lease has changed. Nothing is claimed during a check, for a slot that seems
// free may be taken in the journal.
//
// Reading the journal does not disturb a working lane: the read cuts only batches below QoS 2,
// and those are settled as a whole, unless an earlier version has left them.
//
// checkJournal reads the journal twice. A batch that was read and is not known any more may
// have been settled in between; a batch that the second read finds again was not.
func (r *laneRunner) checkJournal(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.checkNow:
			r.lane.doubt() // another request may have come during the check, and trust after it
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
			// The lease is lost. Perhaps only we can notice it: the lane's row may have our
			// name and an older epoch, and an idle lane makes no claim that would find it out.
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
