package pgsource

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// The journal of a lane is read from its start: the highest number in reactor.journal_starts. While
// somebody holds an old snapshot, vacuum can remove none of the batches that were settled since, and
// an index scan of all batches of a lane would walk them all, with every heartbeat and every
// recovery. They all lie before the start, so what is read stays constant.
//
// The start only says where there is nothing to read. What must never happen is that it lies behind
// a batch that is in the journal: that batch would not be recovered. The invariant is
//
//	at each commit, no batch of a lane has a lower number than a start of that lane
//
// and two transactions keep it:
//
//   - A start is raised under a lock of the lane's row in reactor.lanes, which every claim holds in
//     share mode until it commits. So no claim is under way, and a statement that begins under the
//     lock sees every batch of the lane. The start becomes the lowest of them. Where there is none,
//     any number is true; it becomes the last one that this instance has claimed. The lock is what
//     makes it true, not who takes it: an instance that has lost the lane, and does not know it yet,
//     does no harm.
//   - A claim that gets a lower number than a start deletes that start, in its own commit. Numbers
//     grow, but they may repeat when a failover has lost commits, or when the table was copied
//     without its sequence. Physical replication, base backups and crashes lose the newest part of
//     the log: a start that survives that was written after the numbers that it is made of, so the
//     sequence survives as well, and they do not even repeat.
//
// A claim that waits for the lock of a raise does not see that raise's start, because its snapshot
// is older. Its number is higher nevertheless: it is drawn after the lock, from the same sequence
// as the number that the start was made of. That is why a lost connection makes an instance forget
// what it has claimed (reset), and why a number counts only for the server that has given it (laneStart.era): after a
// failover that lost commits, a start that an old number was made of could lie behind a batch, which nobody would recover.
//
// A start that is too low costs time and nothing else. So raising it is a commit that does not wait
// for the disk, nothing depends on its success, and nobody minds if a failover or a crash takes it
// back. A row of reactor.lanes that somebody has deleted has no lock to be raised under, and its
// start stays true, because nothing can be claimed in that lane. Somebody who puts rows into the
// journal by hand, from a backup for example, has to empty reactor.journal_starts.

// ofLane is the condition for the batches f of a lane. It has the planner use the index by lane and
// batch, and no other, whatever it believes about the table (sql/schema.sql). For the same reason
// what is ordered by the batch has to be ordered by the same expression, and what finds batches by
// their numbers must not be joined to f.lane, the first column of that index.
func ofLane(lane string) string {
	return "f.lane = " + lane + " AND f.batch + 0 >= coalesce((SELECT s.batch FROM reactor.journal_starts s WHERE s.lane = " + lane + " ORDER BY s.batch DESC LIMIT 1), " + firstBatch + ")"
}

// firstBatch is before every batch.
const firstBatch = "'-9223372036854775808'::bigint"

// raiseEvery is after how many claims the start of a lane is raised. Up to then, and until the next
// beat, whoever reads the journal walks the batches that were settled meanwhile, 0.5 µs each. Each
// raise stops the claims of the lane for about a millisecond, and leaves a row of
// reactor.journal_starts to vacuum.
const raiseEvery = 1000

// raiseAtLeast is after how long a start is raised if there were fewer claims.
const raiseAtLeast = time.Minute

// journalStarts is what the claims of this instance say about the lanes' journals.
type journalStarts struct {
	mu    sync.Mutex
	lanes map[int32]*laneStart // guarded by mu
}

type laneStart struct {
	last   int64     // the number of the last batch that was claimed
	era    int64     // of the server that has given it (timeline.go)
	since  int       // claims since the start was raised
	raised time.Time // when that was
	fails  int       // raises in a row that did not get the lock
}

// claimed notes a claim.
func (j *journalStarts) claimed(lane int32, batch, era int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lanes[lane]
	if l == nil {
		if j.lanes == nil {
			j.lanes = map[int32]*laneStart{}
		}
		l = &laneStart{} // never raised: it is due, since an earlier owner may not have come to it
		j.lanes[lane] = l
	}
	l.last, l.era, l.since = batch, era, l.since+1
}

// due returns the lanes whose start is to be raised.
func (j *journalStarts) due() (lanes []int32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for lane, l := range j.lanes {
		if l.since >= raiseEvery || l.since > 0 && time.Since(l.raised) >= raiseAtLeast {
			lanes = append(lanes, lane)
		}
	}
	slices.Sort(lanes)
	return lanes
}

// forget forgets all claims.
func (j *journalStarts) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lanes = nil
}

// begin returns what a raise needs.
func (j *journalStarts) begin(lane int32) (last, era int64, patience time.Duration, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lanes[lane]
	if l == nil {
		return 0, 0, 0, false
	}
	return l.last, l.era, leastRaisePatience << min(l.fails, raiseDoublings), true
}

// end notes what became of a raise that began with that number.
func (j *journalStarts) end(lane int32, last int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lanes[lane]
	switch {
	case l == nil: // forgotten meanwhile
	case err != nil:
		l.fails++
	default:
		l.fails, l.raised = 0, time.Now()
		l.since = int(max(0, min(l.last-last, raiseEvery-1))) // at most so many have come meanwhile
	}
}

// While a raise waits for the claims that are under way, new claims of the lane wait behind it. So
// it does not wait for long, unless claims always take that long.
const (
	leastRaisePatience = 20 * time.Millisecond
	raiseDoublings     = 5
)

var (
	// lockLaneSQL keeps claims of the lane away until the transaction ends. The next statement
	// must know whether there was a row to lock: one that is inserted between the two is not locked.
	lockLaneSQL = `
SELECT set_config('reactor.locked_lane', lane::text, true)
  FROM (SELECT lane FROM reactor.lanes WHERE lane = $1 FOR NO KEY UPDATE) AS locked`

	// raiseStartSQL is a statement of its own, so that its snapshot is from after the lock. It
	// deletes the earlier start by its number: searching for all that are lower would walk what an
	// old snapshot keeps of them.
	raiseStartSQL = `
WITH was AS MATERIALIZED (
    SELECT s.batch FROM reactor.journal_starts s WHERE s.lane = $1 ORDER BY s.batch DESC LIMIT 1
), next AS MATERIALIZED (
    SELECT coalesce((SELECT f.batch FROM reactor.in_flight f WHERE ` + ofLane("$1") + ` ORDER BY f.batch + 0 LIMIT 1), $2) AS batch
     WHERE current_setting('reactor.locked_lane', true) = $1::text
), gone AS (
    DELETE FROM reactor.journal_starts WHERE lane = $1 AND batch = (SELECT was.batch FROM was, next WHERE was.batch < next.batch)
)
INSERT INTO reactor.journal_starts (lane, batch)
SELECT $1, batch FROM next WHERE batch > coalesce((SELECT batch FROM was), ` + firstBatch + `)`
)

// raiseStart moves the start of a lane's journal to its lowest batch. The whole transaction is one
// round trip: claims of the lane wait for it.
//
// If we crash before the commit, or PostgreSQL crashes before the commit has reached the disk, the
// earlier start is there, and as true as before.
func (s *Source) raiseStart(ctx context.Context, lane int32) error {
	last, era, patience, ok := s.starts.begin(lane)
	if !ok {
		return nil
	}
	// It may wait for its turn, and meanwhile the database may fail over.
	raising := s.background.accepting(func(conn *pgconn.PgConn) error {
		if eraOf(conn) != era {
			return errFailedOver
		}
		return nil
	})
	err := raising.together(ctx, []statement{
		{"SELECT set_config('lock_timeout', $1, true), set_config('synchronous_commit', 'off', true)", []any{fmt.Sprint(patience.Milliseconds(), "ms")}},
		{lockLaneSQL, []any{lane}},
		{raiseStartSQL, []any{lane, last}},
	})
	s.starts.end(lane, last, err)
	return s.failed("raise the start of a journal", err)
}
