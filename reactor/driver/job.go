package driver

import (
	"math"
	"math/bits"
	"time"
)

// DBTime is an instant on the database's clock, in microseconds since the Unix
// epoch: the resolution of a Postgres timestamptz. Every comparison with a
// job's fire_at is made in DBTime; the host's wall clock is never consulted.
type DBTime int64

// DBTimeOf converts a timestamp read from the database. Postgres timestamps
// are whole microseconds, so nothing is lost, but for those of its last 30 years: they
// go on to the end of the year 294276, and microseconds since 1970 that fit in 64 bits
// to the 10th of January 294247. What lies beyond is taken for the last one that fits.
func DBTimeOf(t time.Time) DBTime {
	// UnixMicro wraps, seconds do not. The last second that fits in part counts as beyond.
	const bound = math.MaxInt64 / 1_000_000
	switch seconds := t.Unix(); {
	case seconds >= bound:
		return math.MaxInt64
	case seconds <= -bound:
		return math.MinInt64
	}
	return DBTime(t.UnixMicro())
}

// Time converts back for display and for query parameters.
func (t DBTime) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }

// Add returns t+d, or the last instant on the side on which it would lie beyond. Fractions
// of a microsecond are rounded up, so that a deadline never moves forward by rounding.
func (t DBTime) Add(d time.Duration) DBTime {
	µs := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		µs++
	}
	sum := int64(t) + µs
	switch {
	case µs > 0 && sum < int64(t):
		return math.MaxInt64
	case µs < 0 && sum > int64(t):
		return math.MinInt64
	}
	return DBTime(sum)
}

// Sub returns t-u, or the longest duration on the side on which it would be longer: a
// Duration ends at 292 years, and the instants of a table may lie 300,000 apart.
func (t DBTime) Sub(u DBTime) time.Duration {
	const longest = math.MaxInt64 / int64(time.Microsecond)
	µs := int64(t) - int64(u)
	switch {
	case t >= u && (µs < 0 || µs > longest):
		return math.MaxInt64
	case t < u && (µs > 0 || µs < -longest):
		return math.MinInt64
	}
	return time.Duration(µs) * time.Microsecond
}

// Job is one claimed row: ours alone, until it is settled.
type Job struct {
	ID      int64
	Topic   string
	Payload []byte
	FireAt  DBTime
	// ExpiresAt is the instant after which the job must no longer be published, if
	// Expires is true; otherwise there is none. Every DBTime is an instant, 0 is one of
	// 1970.
	ExpiresAt DBTime
	Expires   bool
}

// Pending is what the wheel holds of a job that nobody has claimed yet. It is
// a hint: the claim looks at the row again.
type Pending struct {
	ID int64
	// DueAt is fire_at, or the later instant of the next attempt after the
	// broker refused the job.
	DueAt DBTime
	// Bytes is the length of topic and payload together; it bounds the memory
	// of a claim.
	Bytes int32
	Shard uint8
}

// Shards is the number of hash shards the table is divided into. It is fixed
// by the stored column jobs.shard (sql/schema.sql).
const Shards = 64

// ShardSet is a set of shards, one bit each.
type ShardSet uint64

// AllShards is the set of every shard.
const AllShards = ^ShardSet(0)

// StaticShards returns the share of consumer index (0-based) of count: every
// count-th shard.
func StaticShards(count, index int) ShardSet {
	var s ShardSet
	for shard := index; shard < Shards; shard += count {
		s = s.With(uint8(shard))
	}
	return s
}

// With returns the set with shard in it.
func (s ShardSet) With(shard uint8) ShardSet { return s | 1<<shard }

// Has reports whether shard is in the set.
func (s ShardSet) Has(shard uint8) bool { return s&(1<<shard) != 0 }

// Minus returns the shards of s that are not in t.
func (s ShardSet) Minus(t ShardSet) ShardSet { return s &^ t }

// Len counts the shards.
func (s ShardSet) Len() int { return bits.OnesCount64(uint64(s)) }

// List returns the shards in ascending order.
func (s ShardSet) List() []uint8 {
	list := make([]uint8, 0, s.Len())
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		list = append(list, uint8(bits.TrailingZeros64(rest)))
	}
	return list
}

// DistantPast is before every fire_at. It is not the smallest DBTime, so that
// durations can be subtracted from it.
const DistantPast DBTime = -1 << 62
