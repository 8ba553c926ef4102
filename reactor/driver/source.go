package driver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// Source is the table of jobs, and all durable state of reactor. pgsource implements it.
//
// Every method may be called from several goroutines, returns when ctx ends, and may be called
// again after an error unless its comment says otherwise. A method does not keep the slices that it
// is given; the slices that it returns belong to the caller.
type Source interface {
	// Open connects and checks that the database can be used: reachable, version,
	// schema, rights. Its error is one line that says what to do.
	Open(ctx context.Context) error
	// Close closes the connections. No other call may be running.
	Close()
	// Now reads the database's clock.
	Now(ctx context.Context) (DBTime, error)

	// Join enters the membership as a new incarnation. It returns *ProtocolError if it and a living member do not
	// understand each other.
	Join(ctx context.Context, opts JoinOptions) (Member, error)

	Feed
	Loader
	Journal
}

// Feed announces rows that were written. Its hints are not reliable: the feed may repeat them, send
// them late, or lose them while it is disconnected.
type Feed interface {
	// Listen calls on for each hint, from one goroutine, until ctx ends or the feed fails. The
	// first hint but HintFailover is HintConnected, when the feed is established: rows that were written before it
	// must be swept after it.
	Listen(ctx context.Context, on func(Hint)) error
	// FeedState returns the present state of the feed. It may be called at any time.
	FeedState() FeedState
}

// FeedState is the state of a Feed.
type FeedState struct {
	// Kind is how new jobs are announced: "notify"; "wal"; both while the deployment switches from
	// one to the other ("wal,notify"); "poll" if they are not announced; "" while no feed is
	// established.
	Kind string
	// Problem describes what is wrong with the feed, or is "".
	Problem string
	// LagBytes is how many bytes of its log the server keeps for the WAL feed. Lag is the age of
	// the part of the log that was read last.
	LagBytes int64
	Lag      time.Duration
	// Failovers is how often the database has failed over to another server since Open, as far as
	// the server tells.
	Failovers int64
}

// Announces reports whether the feed tells of new jobs, as far as is known.
func (f FeedState) Announces() bool { return f.Kind != "poll" && f.Problem == "" }

// HintKind is the kind of a Hint.
type HintKind uint8

const (
	// HintConnected: the feed is established; any earlier hint may have been lost.
	HintConnected HintKind = iota
	// HintJobs: rows with ids between MinID and MaxID were written, all of them of Shards; the
	// earliest is due at Earliest. They are visible.
	HintJobs
	// HintMembership: shards or lanes have new owners; a heartbeat is needed now.
	HintMembership
	// HintFailover: the database has moved to another server, which may lack the last commits. What
	// is in memory must be compared with the journal before anything else is claimed. The feed ends
	// after it.
	HintFailover
)

// Hint is one announcement of the Feed.
type Hint struct {
	Kind         HintKind
	MinID, MaxID int64
	Earliest     DBTime
	Shards       ShardSet // 0: not known
}

// Loader reads the unprocessed jobs of the near future.
type Loader interface {
	// LoadWindow reads, for the shard of each cursor, the jobs behind the cursor that are due
	// before until, in order of fire_at, at most limit rows in total. It returns the cursors to
	// continue with; a shard without a cursor has no more such jobs.
	LoadWindow(ctx context.Context, cursors []Cursor, until DBTime, limit int) ([]Pending, []Cursor, error)
	// LoadRange reads the jobs of the shards with minID <= id <= maxID and from <= fire_at < until.
	LoadRange(ctx context.Context, shards ShardSet, minID, maxID int64, from, until DBTime) ([]Pending, error)
	// LoadIDs reads the jobs of the shards with these ids and from <= fire_at < until. With
	// everywhere, jobs that are not found are looked for before from as well: they may have been
	// rescheduled. A table without partitions may ignore from.
	LoadIDs(ctx context.Context, shards ShardSet, ids []int64, from, until DBTime, everywhere bool) ([]Pending, error)
	// Settled returns an instant of which this is known: what was written before it has been
	// committed, or never will be. Reads that begin after the answer find all of that; what they
	// do not find is written later. DistantPast: nothing is known yet, ask again.
	//
	// It stands still while a transaction that has written something is open, and comes up to
	// the present when that has ended. Transactions that only read do not matter.
	Settled(ctx context.Context) (DBTime, error)
}

// Cursor is a place in the jobs of one shard, in the order of (fire_at, id). A row at the place
// itself has been read.
type Cursor struct {
	Shard   uint8
	AfterAt DBTime
	AfterID int64
}

// CursorAt is the cursor before every job of the shard due at or after from.
func CursorAt(shard uint8, from DBTime) Cursor {
	return Cursor{Shard: shard, AfterAt: from.Add(-time.Microsecond), AfterID: 1<<63 - 1}
}

// Before reports whether c is before o, a place in the same shard.
func (c Cursor) Before(o Cursor) bool { return c.Compare(o) < 0 }

// Compare is negative if c is before o, and 0 if they are the same place.
func (c Cursor) Compare(o Cursor) int {
	return cmp.Or(cmp.Compare(c.AfterAt, o.AfterAt), cmp.Compare(c.AfterID, o.AfterID))
}

// Journal is the durable record of the jobs that are claimed and not settled.
type Journal interface {
	// Claim takes those of the jobs that are still due, unprocessed and ours, and journals them, in
	// one commit. Jobs that are missing in the answer were cancelled, rescheduled, locked or taken:
	// read them again with LoadIDs. Batch.Jobs is empty if none could be taken. After HintFailover
	// nothing can be claimed for a lane before its journal was read (Unsettled or Recover).
	//
	// It returns ErrLeaseLost if the lane is no longer ours, *JobError if nothing was claimed
	// because of one of the jobs, and *UnknownError if the connection broke, so that the commit may
	// or may not have happened: then, and only then, ResolveClaim must be called.
	Claim(ctx context.Context, req ClaimRequest) (Batch, error)
	// ResolveClaim finds out whether a claim with an unknown outcome happened. It raises the lane's
	// epoch first, so that the claim cannot commit later; the lease that it returns replaces the
	// old one. ok is false if the claim did not happen.
	ResolveClaim(ctx context.Context, req ClaimRequest) (batch Batch, lease Lease, ok bool, err error)
	// Unsettled tells which batches Recover would return, without reading their jobs: a
	// payload counts as large from so many bytes on. Like Recover it returns ErrLeaseLost if the lane
	// is no longer ours.
	Unsettled(ctx context.Context, lease Lease, largePayload int) ([]Unsettled, error)
	// Recover returns the lane's unsettled batches, oldest first: what an earlier
	// owner, dead or stopped, may or may not have published. Settled parts are
	// left out, but those of QoS 2, which Batch.Concluded counts.
	Recover(ctx context.Context, lease Lease) ([]Batch, error)
	// Reopen starts a new round for the lane's QoS 2 batches, in which none of their jobs is
	// settled: settlements of earlier rounds become void, also those that are still under way. It
	// is for a broker that has lost the lane's session, or never had it. From then on the journal
	// belongs to the session with this mark; "" if it cannot be marked. Repeating a call with the
	// same round is harmless.
	Reopen(ctx context.Context, lease Lease, round int64, mark string) error
	// Mark records a new mark for the session to which the journal belongs, "" for none. The
	// batches do not change.
	Mark(ctx context.Context, lease Lease, mark string) error
	// Settle records outcomes, all in one commit, and returns one answer for each settlement.
	// Settling the same again is harmless, so after an error the call is repeated.
	Settle(ctx context.Context, settlements []Settlement) ([]Receipt, error)
	// Follow finds the next jobs of ordering keys of which jobs have ended (Receipt.Keys), as far as they
	// are due, and tells the instances that own their shards. If it does not, those look at the jobs
	// again by themselves, a little later.
	Follow(ctx context.Context, keys []int64) ([]Follower, error)
	// Sift finds those of the jobs that cannot be claimed because of their rows, and changes
	// nothing. It may find none although there is one: then claims of fewer jobs show which it is.
	Sift(ctx context.Context, ids []int64) ([]BadJob, error)
	// Quarantine records why jobs cannot be claimed. They stay unprocessed; a later claim that
	// succeeds deletes the record.
	Quarantine(ctx context.Context, jobs []BadJob) error
}

// tokenMark is how a token begins, "reacto" in ASCII. By it the database tells the claims of versions
// that publish all of a row from those of earlier versions, whose tokens are random as a whole: the rule is
// in sql/schema.sql, and belongs to the protocol. One in 2^48 of theirs begins the same.
const tokenMark = "reacto"

// NewToken draws the token of a claim. 80 bits of it are random: a deployment that has made a million
// million claims has drawn one twice with a probability of one half.
func NewToken() (token [16]byte) {
	rand.Read(token[copy(token[:], tokenMark):]) // never fails, by its documentation
	return token
}

// ClaimRequest asks for a batch of jobs.
type ClaimRequest struct {
	Lease Lease
	// QoS is the highest QoS to publish with. A claim takes jobs of one QoS (Batch.QoS), the highest
	// of those asked for: jobs of a lower one are missing in the answer.
	QoS byte
	// Token identifies this claim in the journal if its outcome becomes unknown. It is one of NewToken.
	Token [16]byte
	IDs   []int64
	// From and To are the first and the last fire_at that the jobs had when they were read. A job
	// that was rescheduled to another time since is not claimed. In a table with partitions they
	// tell where to search.
	From, To DBTime
	// Within is how long after the claim, on the database's own clock, fire_at may be at most. A
	// job with a later fire_at is not claimed: it was rescheduled, or that clock was set back.
	Within time.Duration
	// Static is the fixed share of an instance without dynamic membership. The zero value means the
	// shards that we own according to the database at that moment.
	Static ShardSet
	// FirstSlot is the slot of the batch's first job.
	FirstSlot Slot
	// Reach is how many slots, from the lane's first unsettled one on, messages may be sent in.
	Reach int
	// Bytes bounds the total length of topics and payloads; a single larger job is allowed.
	Bytes int
	// Briefly asks for an early answer: if a trigger of the row waits for something, the claim
	// fails with a *JobError instead of waiting for long.
	Briefly bool
}

// Batch holds the jobs of one claim; it is the unit of the journal. Jobs are in launch order
// (fire_at, id); Jobs[i] has the slot i places after FirstSlot. A recovered job whose row does not
// exist any more has no Topic: nothing can be published, but the job keeps its place, and the broker
// may have its message, which must not be released before FireAt.
type Batch struct {
	// ID orders the batches of a lane. Token identifies this batch for ever (ClaimRequest.Token).
	ID        int64
	Token     [16]byte
	FirstSlot Slot
	Jobs      []Job
	// Reach is how many slots, from the lane's first unsettled one on, were in use at most while
	// the batch was in flight: messages in later slots were never sent.
	Reach int
	// QoS is the QoS that the claim promised; a recovery publishes the jobs with it.
	QoS byte
	// Mixed tells that jobs of a lower QoS were left alone (ClaimRequest.QoS); only after a claim.
	Mixed bool
	// Missed is how many jobs were not claimed, but have ended as missed, because they were late and a newer one of
	// their ordering key was due as well. Keys stand for those keys (Journal.Follow). Only after a
	// claim.
	Missed int
	Keys   []int64
	// Ordered tells that others may wait for the end of the batch, by their ordering keys.
	Ordered bool
	// Concluded is how many of Jobs, from the front, the broker is known to have received; only at
	// QoS 2, after a recovery.
	Concluded int
	// Round has to be repeated in the batch's settlements.
	Round int64
	// At is the database's time at some instant of the claim; 0 if it is not known.
	At DBTime
}

// Unsettled is a batch in the journal, and how many bytes its payloads are: the small ones, and
// the large ones.
type Unsettled struct {
	Token                  [16]byte
	SmallBytes, LargeBytes int
}

// Settlement is the news about one batch. Its jobs are settled from the front;
// what was never sent can be cut off at the end.
type Settlement struct {
	BatchID, Round int64
	Token          [16]byte // of the batch
	Lease          Lease
	// Concluded is how many of the batch's jobs, from the front, will not be sent again: they have
	// ended, or (QoS 2) the broker has received them.
	Concluded int
	// Done means that all jobs that stay claimed have ended: the batch leaves the journal.
	Done bool
	// Jobs is the number of the batch's jobs. Kept is how many of them, from the front, stay
	// claimed; the others go back to the table as unprocessed.
	Jobs, Kept int
	// Failures are those of the newly settled jobs that were not published.
	Failures []Failure
}

// HandsBack reports whether jobs go back to the table.
func (s Settlement) HandsBack() bool { return s.Kept < s.Jobs }

// Receipt is the journal's answer to a Settlement.
type Receipt struct {
	// Recorded means that, when the commit was made, the batch was in the journal and the lane
	// still belonged to the owner of its Lease. Otherwise nothing was recorded, unless the
	// settlement is Done: then it may have been recorded, which does not matter.
	Recorded bool
	// GivenUp are those of the Failures that will not be tried again.
	GivenUp []Failure
	// Keys stand for the ordering keys of which jobs have ended. The first receipt has those of all
	// settlements that were recorded together.
	Keys []int64
}

// Follower is a job whose turn it is, as those before it with its ordering key have ended.
type Follower struct {
	ID     int64
	Shard  uint8
	FireAt DBTime
}

// Failure is a job that was not published.
type Failure struct {
	JobID int64
	// Topic is only for the log.
	Topic  string
	Code   byte // the broker's MQTT reason code, or 0
	Reason string
	// Final failures are recorded at once; other jobs are tried again after a pause until their
	// attempts are used up.
	Final bool
	// State is how the job has ended if it is not tried again.
	State FailureState
}

// FailureState is how a job ended that was not published.
type FailureState uint8

const (
	// Failed: the broker refused it, or it cannot be sent, or its outcome is unknown.
	Failed FailureState = iota
	// Expired: its ExpiresAt had passed.
	Expired
	// Missed: it would have been later than the deployment or its schedule allows.
	Missed
)

// String is what the database records.
func (s FailureState) String() string {
	switch s {
	case Failed:
		return "failed"
	case Expired:
		return "expired"
	case Missed:
		return "missed"
	}
	return fmt.Sprintf("FailureState(%d)", uint8(s))
}

// JoinOptions say how an instance takes part.
type JoinOptions struct {
	// Static is the fixed share of shards; with the zero value the instance takes part in the
	// dynamic distribution.
	Static ShardSet
	// Lanes is how many lanes the instance wants for itself.
	Lanes int
}

// Member is one incarnation of an instance. It ends for ever when Beat returns ErrDeposed.
type Member interface {
	// Beat sends a heartbeat: it renews the leases, and gives every shard and lane that needs one a
	// living owner, so that all instances have equal shares. It returns what this instance owns
	// now. ErrDeposed means that other instances considered this one dead and took everything, or that the
	// database is another one.
	Beat(ctx context.Context) (Holding, error)
	// TTL is how long an instance may act on its leases after its last successful Beat began. Then
	// others take them. They may take them earlier if the instance's database session has ended,
	// which its next Beat would find out; the Epoch makes this safe.
	TTL() time.Duration
	// WantLanes changes how many lanes the instance wants for itself, from the next Beat on.
	WantLanes(n int)
	// Report has the next beats tell how the instance is doing. It needs no answer, and a source may ignore it.
	Report(s Snapshot)
	// ReleaseShards hands the shards over to the other instances at once, as the first step of a
	// stop.
	ReleaseShards(ctx context.Context) error
	// ReleaseLane gives a lane back. Its next owner recovers the batches that are still in its
	// journal.
	ReleaseLane(ctx context.Context, lease Lease) error
	// Leave ends the membership, and releases all remaining shards and lanes.
	Leave(ctx context.Context) error
}

// Holding is what an instance owns.
type Holding struct {
	Shards ShardSet
	Leases []Lease
}

// Lease is the right to use one lane. A new owner raises the epoch, by two at least, which voids
// every older lease. Its owner itself raises it by one (ResolveClaim). The epochs of a lane never
// repeat.
type Lease struct {
	Lane  int32
	Owner int64
	Epoch int64
	// ClientID is the lane's client id at the broker, the same for every owner.
	ClientID string
	// Mark is the mark of the broker's session to which the journal belongs, "" if it has none
	// (Session.Mark).
	Mark string
}

var (
	// ErrDeposed: the membership considers this incarnation dead.
	ErrDeposed = errors.New("deposed: other instances took over while this one did not answer")
	// ErrLeaseLost: the lane has another owner or epoch.
	ErrLeaseLost = errors.New("the lane was taken over by another instance")
)

// JobError wraps the error of a claim that failed because of one of its jobs: its row violates a
// constraint, a trigger fails, or a value cannot be read. Nothing was claimed; without this job the
// others can be claimed.
type JobError struct {
	// Reason is what the database reports, on one line.
	Reason string
	// Waited: the claim failed because it waited too long, for a lock or a slow trigger.
	Waited bool
	// Costly: another attempt does harm.
	Costly bool
	Err    error
}

func (e *JobError) Error() string { return e.Err.Error() }
func (e *JobError) Unwrap() error { return e.Err }

// BadJob is a job that cannot be claimed.
type BadJob struct {
	ID  int64
	Why *JobError
}

// UnknownError wraps an error after which a commit may or may not have happened.
type UnknownError struct{ Err error }

func (e *UnknownError) Error() string { return "outcome unknown: " + e.Err.Error() }
func (e *UnknownError) Unwrap() error { return e.Err }
