package pgsource

import (
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// uuid passes a claim's token as a parameter.
func uuid(token [16]byte) pgtype.UUID { return pgtype.UUID{Bytes: token, Valid: true} }

// dbTime reads and writes driver.DBTime as timestamptz. It reads NULL as 0; where a column may be
// NULL, use nullTime, because 0 is an instant as well.
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

// instant converts a timestamptz that is not NULL. The infinities, which another table may hold,
// become the first and the last instant.
func instant(v pgtype.Timestamptz) driver.DBTime {
	switch v.InfinityModifier {
	case pgtype.Infinity:
		return math.MaxInt64
	case pgtype.NegativeInfinity:
		return math.MinInt64
	}
	return driver.DBTimeOf(v.Time)
}

// TimestamptzValue implements pgtype.TimestamptzValuer. An instant before the smallest timestamp of
// Postgres becomes -infinity.
func (t dbTime) TimestamptzValue() (pgtype.Timestamptz, error) {
	if t.DBTime < earliestTimestamp {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, nil
	}
	return pgtype.Timestamptz{Time: t.Time(), Valid: true}, nil
}

// smallints passes a set of shards as a parameter; the empty set as nil, which is an SQL NULL.
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
