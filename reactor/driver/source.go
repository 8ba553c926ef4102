package driver

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Source is the table of jobs and everything durable around it. pgsource
// implements it.
//
// Every method may be called from several goroutines, returns when ctx ends, and
// may be called again after an error unless it says otherwise. Slices handed in
// are the caller's again on return; slices returned are the caller's.
type Source interface {
	// Open connects and checks that the database can be used: reachable, version,
	// schema, rights. Its error is one line that says what to do.
	Open(ctx context.Context) error
	// Close releases the connections. Nothing else may be running.
	Close()
	// Now reads the database's clock.
	Now(ctx context.Context) (DBTime, error)

	// Join enters the membership as a new incarnation.
	Join(ctx context.Context, opts JoinOptions) (Member, error)

	Feed
	Loader
	Journal
}

// Feed tells of rows that were written. It is a hint and no more: it may repeat
// itself, be late, or lose everything while disconnected.
type Feed interface {
	// Listen calls on for each hint, from one goroutine, until ctx ends or the
	// feed breaks. Its first hint is HintConnected, sent when the subscription
	// stands: what was written before must be swept after it.
	Listen(ctx context.Context, on func(Hint)) error
	// FeedState tells how the feed is at the moment. It may be called at any time.
	FeedState() FeedState
}

// FeedState is how a Feed is.
type FeedState struct {
	// Kind is how new jobs are announced: "notify", "wal", both while the deployment changes
	// over ("wal,notify"), "poll" if they are not, and "" while no feed stands.
	Kind string
	// Problem is in words what keeps the feed from being what it should be, or "".
	Problem string
	// LagBytes is how much the server keeps of its log for the WAL feed, and Lag how long
	// ago what has been read of it was written.
	LagBytes int64
	Lag      time.Duration
}

// HintKind tells what a Hint is about.
type HintKind uint8

const (
	// HintConnected: the feed stands; anything may have been missed before.
	HintConnected HintKind = iota
	// HintJobs: rows with ids MinID … MaxID were written, the earliest due at
	// Earliest, all of them of Shards. They can be read.
	HintJobs
	// HintMembership: shards or lanes changed hands; beat now.
	HintMembership
)

// Hint is one piece of news from the Feed.
type Hint struct {
	Kind         HintKind
	MinID, MaxID int64
	Earliest     DBTime
	Shards       ShardSet // 0: not told
}

// Loader reads the near future of the table. Rows that were processed or deleted
// do not appear.
type Loader interface {
	// LoadWindow reads, for each cursor's shard, the jobs behind the cursor that
	// are due before until, in order of fire_at, at most limit rows in all. It
	// returns the cursors to go on with; a shard without a cursor is exhausted.
	LoadWindow(ctx context.Context, cursors []Cursor, until DBTime, limit int) ([]Pending, []Cursor, error)
	// LoadRange reads the jobs with minID <= id <= maxID of the shards that are
	// due before until.
	LoadRange(ctx context.Context, shards ShardSet, minID, maxID int64, until DBTime) ([]Pending, error)
	// LoadIDs reads the jobs with these ids of the shards that are due before until.
	LoadIDs(ctx context.Context, shards ShardSet, ids []int64, until DBTime) ([]Pending, error)
}

// Cursor is a place in one shard's jobs, ordered by (fire_at, id). Rows at the
// cursor itself have been read.
type Cursor struct {
	Shard   uint8
	AfterAt DBTime
	AfterID int64
}

// CursorAt is the cursor before every job of the shard due at or after from.
func CursorAt(shard uint8, from DBTime) Cursor {
	return Cursor{Shard: shard, AfterAt: from.Add(-time.Microsecond), AfterID: 1<<63 - 1}
}

// Before is the order of places in one shard.
func (c Cursor) Before(o Cursor) bool { return c.Compare(o) < 0 }

// Compare is negative where c is before o, and 0 where it is the same place.
func (c Cursor) Compare(o Cursor) int {
	return cmp.Or(cmp.Compare(c.AfterAt, o.AfterAt), cmp.Compare(c.AfterID, o.AfterID))
}

// Journal is the durable record of what is between the table and the broker.
type Journal interface {
	// Claim takes the jobs that are still due, unprocessed and ours, and journals
	// them, in one commit. Jobs missing in the answer were cancelled,
	// rescheduled, locked or taken: look again with LoadIDs. Batch.Jobs is empty
	// if none was left.
	//
	// It returns ErrLeaseLost if the lane is no longer ours, *JobError if nothing was
	// claimed because of one of the jobs, and *UnknownError if the connection broke so
	// that the commit may or may not have happened: then, and only then, ResolveClaim
	// must be called.
	Claim(ctx context.Context, req ClaimRequest) (Batch, error)
	// ResolveClaim finds out what became of a claim with an unknown outcome. It
	// raises the lane's epoch first, so that the claim cannot commit any later; the
	// raised lease replaces the old one.
	// ok is false if the claim did not happen.
	ResolveClaim(ctx context.Context, req ClaimRequest) (batch Batch, lease Lease, ok bool, err error)
	// Unsettled tells which batches Recover would return, without reading their jobs: a
	// payload counts as large from so many bytes on. Like Recover it returns ErrLeaseLost if the lane
	// is no longer ours.
	Unsettled(ctx context.Context, lease Lease, largePayload int) ([]Unsettled, error)
	// Recover returns the lane's unsettled batches, oldest first: what an earlier
	// owner, dead or stopped, may or may not have published. Settled parts are
	// left out, but those of QoS 2, which Batch.Concluded counts.
	Recover(ctx context.Context, lease Lease) ([]Batch, error)
	// Reopen begins a new round for the lane's QoS 2 batches, of which nothing is
	// settled: what was said of them before, and what may still be under way to be
	// said, is void. For a broker that has lost the lane's session, or has never had
	// one. From then on the session that the journal speaks of is the one with this
	// mark; "" if it cannot be marked. Repeating it with the same round is harmless.
	Reopen(ctx context.Context, lease Lease, round int64, mark string) error
	// Mark notes another mark of the session that the journal speaks of, "" for none:
	// nothing of what is said of the batches changes.
	Mark(ctx context.Context, lease Lease, mark string) error
	// Settle records outcomes, all in one commit, and returns one answer for each
	// settlement. Settling the same again is harmless, so after an error it is simply
	// repeated.
	Settle(ctx context.Context, settlements []Settlement) ([]Receipt, error)
	// Sift finds those of the jobs that cannot be claimed because of their rows, and changes
	// nothing. It need not find any: then the claims of fewer jobs tell.
	Sift(ctx context.Context, ids []int64) ([]BadJob, error)
	// Quarantine records why jobs cannot even be claimed. They stay unprocessed; when
	// a claim of one succeeds after all its record goes.
	Quarantine(ctx context.Context, jobs []BadJob) error
}

// ClaimRequest asks for a batch of jobs.
type ClaimRequest struct {
	Lease Lease
	// QoS that is promised: it is what a recovery goes by.
	QoS byte
	// Token identifies this claim in the journal if its outcome becomes unknown.
	Token [16]byte
	IDs   []int64
	// Within bounds fire_at, from the moment of the claim on the database's own clock:
	// a job that was rescheduled beyond it is left alone, and so is every job that is
	// not due after all because that clock was set back.
	Within time.Duration
	// Static is the fixed share of an instance without dynamic membership; the
	// zero value means: the shards the database says we own, right now.
	Static ShardSet
	// FirstSlot is where the batch's slots begin.
	FirstSlot Slot
	// Reach is how far beyond the lane's first unsettled slot messages are sent.
	Reach int
	// Bytes bounds topics and payloads together; a single larger job passes.
	Bytes int
	// Briefly asks for an answer soon: rather a *JobError than to wait for what the row's
	// triggers wait for.
	Briefly bool
}

// Batch is what one claim took: the unit of the journal. Jobs are in launch
// order (fire_at, id); Jobs[i] has the slot i places after FirstSlot. A recovered
// job whose row is not there any more has no Topic: there is nothing left to
// publish, but its place counts.
type Batch struct {
	// ID orders the batches of a lane; Token names this one for good (ClaimRequest.Token).
	ID        int64
	Token     [16]byte
	FirstSlot Slot
	Jobs      []Job
	// Reach is how many slots from the lane's first unsettled one on were in use at
	// most, when the batch was on its way: what lies beyond was never sent.
	Reach int
	// QoS that was promised by the claim (ClaimRequest.QoS).
	QoS byte
	// Concluded is how many of Jobs, from the front, the broker is known to have
	// received; only at QoS 2, after a recovery.
	Concluded int
	// Round has to be given back in the batch's settlements.
	Round int64
	// At is the database's time at some instant of the claim; 0 if it was not told.
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
	// Concluded is how many of the batch's jobs, from the front, will not be sent again:
	// they have ended, or (QoS 2) the broker has received them.
	Concluded int
	// Done tells that all that stay claimed have ended: the batch leaves the journal.
	Done bool
	// Kept is how many of the batch's Jobs, from the front, stay claimed; the rest
	// go back to the table as unprocessed.
	Jobs, Kept int
	// Failures are those among the newly settled that were not published.
	Failures []Failure
}

// HandsBack reports whether jobs go back to the table.
func (s Settlement) HandsBack() bool { return s.Kept < s.Jobs }

// Receipt is the journal's answer to a Settlement.
type Receipt struct {
	// Recorded tells whether the batch was in the journal, and the lane still its Lease's
	// owner's, when the commit was made. Where it was not, nothing was recorded, unless
	// the settlement is Done: then it may have been, and it does not matter.
	Recorded bool
	// GivenUp are those of the Failures that will not be tried again.
	GivenUp []Failure
}

// Failure is a job that was not published.
type Failure struct {
	JobID int64
	// Topic is for the log alone.
	Topic  string
	Code   byte // the broker's MQTT reason code, or 0
	Reason string
	// Final failures are recorded at once; others are tried again after a backoff
	// until the attempts are used up.
	Final bool
}

// JoinOptions say how an instance takes part.
type JoinOptions struct {
	// Static is the fixed share of shards; the zero value takes part in the
	// dynamic distribution.
	Static ShardSet
	// Lanes is how many lanes the instance wants for itself.
	Lanes int
}

// Member is one incarnation of an instance. It ends for good when Beat returns
// ErrDeposed.
type Member interface {
	// Beat renews the leases and sees to it that every shard and lane has a living
	// owner, each instance its fair share. It returns what this instance holds
	// now. ErrDeposed means the others gave us up for dead and took everything.
	Beat(ctx context.Context) (Holding, error)
	// TTL is how long after its last successful Beat began an instance may act on
	// its leases: after it, others take them. They may do so earlier if its session is
	// gone, as the next Beat would find out; what makes that safe is the Epoch.
	TTL() time.Duration
	// WantLanes changes how many lanes the instance wants for itself, from the next Beat on.
	WantLanes(n int)
	// ReleaseShards hands the shards to the others at once, as the first step of
	// a stop.
	ReleaseShards(ctx context.Context) error
	// ReleaseLane gives a lane back. Batches still in its journal will be
	// recovered by whoever leases it next.
	ReleaseLane(ctx context.Context, lease Lease) error
	// Leave ends the membership and releases everything left.
	Leave(ctx context.Context) error
}

// Holding is what an instance owns.
type Holding struct {
	Shards ShardSet
	Leases []Lease
}

// Lease is the right to use one lane. A new owner raises the epoch, by two at least, which voids
// every older lease. Its owner itself raises it by one (ResolveClaim).
type Lease struct {
	Lane  int32
	Owner int64
	Epoch int64
	// ClientID is the lane's name at the broker: the same whoever owns it.
	ClientID string
	// Mark is in the broker's session that the journal speaks of, "" if there is none
	// (Session.Mark).
	Mark string
}

var (
	// ErrDeposed: the membership considers this incarnation dead.
	ErrDeposed = errors.New("deposed: other instances took over while this one did not answer")
	// ErrLeaseLost: the lane has another owner or epoch.
	ErrLeaseLost = errors.New("the lane was taken over by another instance")
)

// JobError wraps the error of a claim that failed because of one of its jobs: its row
// violates a constraint, a trigger fails, a value cannot be read. Nothing was claimed;
// the others can be, without it.
type JobError struct {
	// Reason is what the database says, on one line.
	Reason string
	// Waited: it failed because it has waited for too long, for a lock or a slow trigger.
	Waited bool
	// Costly: to try it again does harm.
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
