package reactor

import (
	"context"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A failover that loses the last commits brings batches back into the journal that have
// long been settled. Nobody knows them: the lane has forgotten them and goes on taking
// slots, among them those that they stand for, and whoever recovered it would find two
// batches in one place. So each lane holds its journal against what it knows whenever the
// database may be another one, and where there is more in it, begins anew, with all that is
// in the journal. What had been published of that is published twice then: which it was,
// is what the failover has lost.

// audit looks whenever it is told to, until ctx ends. It reports false where the journal, or
// the lease, is not what it was. Nothing is claimed meanwhile, for slots may not be what they seem.
//
// Reading changes nothing of a lane at work: only batches below QoS 2 are cut, and those are settled
// as a whole, unless an earlier version has left them.
//
// It looks twice. A batch that was read and is not known any more may have been settled in
// between; one that is still there then was not.
func (r *laneRunner) audit(ctx context.Context) (ok bool) {
	for {
		select {
		case <-ctx.Done():
			return true
		case <-r.look:
			r.doubt() // it may have been told to while it looked, and trusted after that
		}
		first, err := r.readJournal(ctx)
		if err != nil {
			// Else the lease is lost. Nobody but us may notice: the lane's row can have our name
			// and an older epoch, and no claim is made that would find it out.
			return ctx.Err() != nil
		}
		unknown := r.unknown(first)
		if len(unknown) == 0 {
			r.trust()
			continue
		}
		second, err := r.readJournal(ctx)
		if err != nil {
			return ctx.Err() != nil
		}
		for token := range r.unknown(second) {
			if unknown[token] {
				r.log.Warn("the journal holds batches that were settled: the database has lost its last commits, and some messages will be sent twice", "lane", r.leaseNow().Lane)
				return false
			}
		}
		r.trust()
	}
}

// doubt has nothing claimed until trust.
func (l *lane) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
}

func (l *lane) trust() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = false
	l.capacity.set()
}

// unknown returns the tokens of batches that are not the lane's.
func (l *lane) unknown(journal []driver.Batch) map[[16]byte]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	unknown := map[[16]byte]bool{}
	for _, b := range journal {
		if b.Token != l.claiming && !l.machine.Knows(b.Token) {
			unknown[b.Token] = true
		}
	}
	return unknown
}

// claims notes the token of the claim that is being made.
func (l *lane) claims(token [16]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claiming = token
}

// doubtJournals has all lanes look: the database may be another one than before.
func (in *incarnation) doubtJournals() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for r := range in.runners {
		r.doubt()
		r.look.set()
	}
}

func (in *incarnation) enter(r *laneRunner) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.runners[r] = struct{}{}
}

func (in *incarnation) exit(r *laneRunner) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.runners, r)
}
