package driver

import (
	"math"
	"math/big"
	"slices"
	"testing"
	"time"
)

// Instants that a timestamptz can have, and instants that only arithmetic can produce.
var extremes = []DBTime{
	math.MinInt64, math.MinInt64 + 1, DistantPast,
	DBTimeOf(time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC)), // PostgreSQL's first, 4714 BC
	-1, 0, 1,
	DBTimeOf(time.Date(2026, 11, 1, 12, 0, 0, 1000, time.UTC)),
	DBTimeOf(time.Date(2320, 1, 1, 0, 0, 0, 0, time.UTC)), // further from 1970 than a Duration can express
	DBTimeOf(time.Date(294246, 12, 31, 23, 59, 59, 999_999_000, time.UTC)),
	math.MaxInt64 - 1, math.MaxInt64,
}

// within is the integer closest to n that fits in 64 bits.
func within(n *big.Int) int64 {
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// TestInstantsSaturate compares with arithmetic that has no bounds.
func TestInstantsSaturate(t *testing.T) {
	durations := []time.Duration{
		math.MinInt64, -time.Hour, -time.Microsecond, -1, 0, 1, time.Microsecond, time.Microsecond + 1,
		time.Hour, 100 * 365 * 24 * time.Hour, math.MaxInt64,
	}
	for _, at := range extremes {
		for _, d := range durations {
			// Rounded up: Div rounds down, and a remainder is never negative.
			µs, rest := new(big.Int).DivMod(big.NewInt(int64(d)), big.NewInt(1000), new(big.Int))
			if rest.Sign() > 0 {
				µs.Add(µs, big.NewInt(1))
			}
			want := DBTime(within(µs.Add(µs, big.NewInt(int64(at)))))
			if got := at.Add(d); got != want {
				t.Errorf("%d + %v is %d, want %d", at, d, got, want)
			}
		}
		for _, other := range extremes {
			µs := new(big.Int).Sub(big.NewInt(int64(at)), big.NewInt(int64(other)))
			want := time.Duration(within(µs.Mul(µs, big.NewInt(1000))))
			if got := at.Sub(other); got != want {
				t.Errorf("%d - %d is %v, want %v", at, other, got, want)
			}
		}
	}
}

func TestDBTimeOf(t *testing.T) {
	for _, c := range []struct {
		of   time.Time
		want DBTime
	}{
		{time.Date(294276, 12, 31, 23, 59, 59, 999_999_000, time.UTC), math.MaxInt64}, // PostgreSQL's last
		{time.Date(294247, 1, 11, 0, 0, 0, 0, time.UTC), math.MaxInt64},
		{time.Date(294247, 1, 10, 4, 0, 53, 0, time.UTC), 9_223_372_036_853_000_000},
		{time.Unix(0, 0), 0},
		{time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC), -1},
		{time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC), -210_866_803_200_000_000},
		{time.Date(-300_000, 1, 1, 0, 0, 0, 0, time.UTC), math.MinInt64},
	} {
		if got := DBTimeOf(c.of); got != c.want {
			t.Errorf("%v is %d, want %d", c.of, got, c.want)
		}
	}
	for _, at := range extremes {
		if at == math.MinInt64+1 || at == math.MaxInt64-1 {
			continue // in a second that fits only partly
		}
		if back := DBTimeOf(at.Time()); back != at {
			t.Errorf("%d comes back as %d", at, back)
		}
	}
}

// TestCursorBeforeEverything: no instant wraps around to the other end of the range.
func TestCursorBeforeEverything(t *testing.T) {
	for _, from := range extremes {
		if c := CursorAt(0, from); c.AfterAt > from || c.AfterAt == from && from != math.MinInt64 {
			t.Errorf("the cursor before %d is at %d", from, c.AfterAt)
		}
	}
}

// TestWithUser: the copy has the value, and the original is not changed.
func TestWithUser(t *testing.T) {
	var none *Properties
	one := none.WithUser("a", "1")
	two := one.WithUser("b", "2")
	changed := two.WithUser("a", "3")
	for _, test := range []struct {
		got  *Properties
		want []UserProperty
	}{
		{one, []UserProperty{{"a", "1"}}}, {two, []UserProperty{{"a", "1"}, {"b", "2"}}}, {changed, []UserProperty{{"a", "3"}, {"b", "2"}}},
	} {
		if !slices.Equal(test.got.User, test.want) {
			t.Errorf("%v, want %v", test.got.User, test.want)
		}
	}
	if kept := (&Properties{Retain: true, ContentType: "text"}).WithUser("a", "1"); !kept.Retain || kept.ContentType != "text" {
		t.Errorf("other properties are lost: %+v", kept)
	}
}
