package driver

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// DBTime is an instant on the database's clock, in microseconds since the Unix
// epoch: the resolution of a Postgres timestamptz. Every comparison with a
// job's fire_at is made in DBTime; the host's wall clock is never consulted.
type DBTime int64

// DBTimeOf converts a timestamp read from the database. Postgres timestamps are whole
// microseconds, so nothing is lost, except in the last 30 years of its range: timestamps end with
// the year 294276, but microseconds since 1970 fit into 64 bits only up to the 10th of January
// 294247. A later timestamp becomes the largest DBTime.
func DBTimeOf(t time.Time) DBTime {
	// UnixMicro wraps around, Unix does not. The last second, which fits only partly, counts as
	// too late.
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

// Add returns t+d, or the first or last instant if t+d is outside the range. Fractions of a
// microsecond are rounded up, so that rounding never makes a deadline earlier.
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

// Sub returns t-u, or the longest positive or negative duration if t-u is longer: a Duration ends
// at 292 years, but two instants of a table may be 300,000 years apart.
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

// Job is one claimed row. Nobody else may publish it until it is settled.
type Job struct {
	ID      int64
	Topic   string
	Payload []byte
	FireAt  DBTime
	// ExpiresAt is the instant after which the job must not be published. It is valid only if
	// Expires is true, because every DBTime is an instant: 0 is in 1970.
	ExpiresAt DBTime
	Expires   bool
	// LeftOut: it is an occurrence of a schedule, was late when its row was read, for a claim or a recovery, and its
	// schedule leaves out what is late. If it was not sent yet it ends as missed.
	LeftOut bool
	// Properties is nil for a message that carries nothing but its payload.
	Properties *Properties
}

// Properties are what a message carries beside its topic and payload [MQTT 5, 3.3].
type Properties struct {
	Retain                     bool
	ContentType, ResponseTopic string         // "" for none
	CorrelationData            []byte         // nil for none
	User                       []UserProperty // in the order in which they are sent
	// Trace is nil for a message without a span (Tracer). It is not sent, and a Source sets none.
	Trace *Trace
}

// WithUser returns a copy with one user property of this name: the value replaces that of the first
// one, or is added at the end. p may be nil.
func (p *Properties) WithUser(name, value string) *Properties {
	var with Properties
	if p != nil {
		with = *p
	}
	with.User = slices.Clone(with.User)
	for i := range with.User {
		if with.User[i].Name == name {
			with.User[i].Value = value
			return &with
		}
	}
	with.User = append(with.User, UserProperty{name, value})
	return &with
}

// UserProperty is a header of a message: a name and a value.
type UserProperty struct{ Name, Value string }

// Pending is what the wheel holds of a job that nobody has claimed yet. It may be outdated: the
// claim checks the row again.
type Pending struct {
	ID int64
	// DueAt is fire_at, or the later instant of the next attempt after the
	// broker refused the job.
	DueAt  DBTime
	FireAt DBTime
	// Bytes is the length of topic and payload together; it bounds the memory
	// of a claim.
	Bytes int32
	Shard uint8
}

// Shards is the number of hash shards into which the table is divided. It is fixed, because the
// column jobs.shard is stored (sql/schema.sql).
const Shards = 64

// ShardSet is a set of shards, one bit each.
type ShardSet uint64

// AllShards is the set of every shard.
const AllShards = ^ShardSet(0)

// StaticShards returns the share of one consumer of count, with an index from 0: every count-th
// shard.
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
