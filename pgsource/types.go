package pgsource

import (
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// uuid is a claim's token.
func uuid(token [16]byte) pgtype.UUID { return pgtype.UUID{Bytes: token, Valid: true} }

// dbTime reads and writes driver.DBTime as timestamptz. NULL reads as 0; where a column
// may be null and 0 is an instant like others, read a nullTime.
type dbTime struct{ driver.DBTime }

// earliestTimestamp is the smallest finite timestamptz, 4714-11-24 BC.
const earliestTimestamp driver.DBTime = -210866803200000000

// ScanTimestamptz implements pgtype.TimestamptzScanner.
func (t *dbTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	t.DBTime = 0
	if v.Valid {
		t.DBTime = instant(v)
	}
	return nil
}

// nullTime reads a timestamptz that may be null.
type nullTime struct {
	driver.DBTime
	valid bool
}

// ScanTimestamptz implements pgtype.TimestamptzScanner.
func (t *nullTime) ScanTimestamptz(v pgtype.Timestamptz) error {
	*t = nullTime{valid: v.Valid}
	if v.Valid {
		t.DBTime = instant(v)
	}
	return nil
}

// instant converts. The infinities, which a table that is not ours may hold, are the
// first and the last instant.
func instant(v pgtype.Timestamptz) driver.DBTime {
	switch v.InfinityModifier {
	case pgtype.Infinity:
		return math.MaxInt64
	case pgtype.NegativeInfinity:
		return math.MinInt64
	}
	return driver.DBTimeOf(v.Time)
}

// TimestamptzValue implements pgtype.TimestamptzValuer. What lies before all that
// Postgres can hold is -infinity.
func (t dbTime) TimestamptzValue() (pgtype.Timestamptz, error) {
	if t.DBTime < earliestTimestamp {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, nil
	}
	return pgtype.Timestamptz{Time: t.Time(), Valid: true}, nil
}

// smallints is a set of shards as a query parameter; nil, an SQL NULL, if the set
// is empty.
func smallints(set driver.ShardSet) []int16 {
	if set == 0 {
		return nil
	}
	list := make([]int16, 0, set.Len())
	for _, shard := range set.List() {
		list = append(list, int16(shard))
	}
	return list
}

// interval passes a duration as an SQL interval.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
