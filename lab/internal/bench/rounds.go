package bench

import (
	"errors"
	"fmt"
	"slices"
)

// Whatever is compared shares the machine one after the other, and the machine drifts. So a run
// can have several rounds, in each of which everything is measured once, in turn: every other
// round goes backwards, so that what comes first in one comes last in the next. A ratio is that of
// two measurements of one round. What is reported is the median of the rounds, with the range.

// Range is a figure of several rounds.
type Range struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newRange(values []float64) Range {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return Range{Median: (values[(n-1)/2] + values[n/2]) / 2, Min: values[0], Max: values[n-1]}
}

// String shows the range only if there is one.
func (r Range) String() string {
	if r.Min == r.Max {
		return fmt.Sprintf("%.2f", r.Median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Min, r.Max)
}

// Ratio is that of two latenesses of the same round.
type Ratio struct {
	P50 Range `json:"p50"`
	P99 Range `json:"p99"`
	Max Range `json:"max"`
}

// ratioTo compares the lateness of two measurements of a round.
func (m Measurement) ratioTo(floor Measurement) *Ratio {
	a, b := m.LatenessMillis, floor.LatenessMillis
	one := func(a, b float64) Range { return newRange([]float64{ratio(a, b)}) }
	return &Ratio{P50: one(a.P50, b.P50), P99: one(a.P99, b.P99), Max: one(a.Max, b.Max)}
}

// Round is what one of several rounds has measured.
type Round struct {
	PublishedPerSecond float64     `json:"published_per_second"`
	LatenessMillis     Percentiles `json:"lateness_ms"`
}

// relate compares the measurements of one round with its floors and its ceiling.
func relate(round []Measurement) {
	find := func(name string) *Measurement {
		if i := slices.IndexFunc(round, func(m Measurement) bool { return m.Name == name }); i >= 0 {
			return &round[i]
		}
		return nil
	}
	floor, floorQoS1, ceiling := find(floorName), find(floorQoS1Name), find(ceilingName)
	compare := func(m *Measurement) {
		if floor != nil {
			m.ToFloor = m.ratioTo(*floor)
		}
		if floorQoS1 != nil {
			m.ToFloorQoS1 = m.ratioTo(*floorQoS1)
		}
	}
	for i := range round {
		m := &round[i]
		if m.Name != floorName && m.Name != floorQoS1Name {
			compare(m)
		}
		if m.Beside != nil {
			compare(m.Beside)
		}
		if ceiling != nil && m != ceiling {
			share := newRange([]float64{ratio(m.PublishedPerSecond, ceiling.PublishedPerSecond)})
			m.ToCeiling = &share
		}
	}
	if floor != nil && floorQoS1 != nil {
		floor.ToFloorQoS1 = floor.ratioTo(*floorQoS1)
	}
}

// combineRounds makes one measurement of those of all rounds: medians, and what has no median, such as
// the usage of processes, from the round whose p50 is in the middle.
func combineRounds(rounds []Measurement) Measurement {
	if len(rounds) == 1 {
		return rounds[0]
	}
	byP50 := slices.SortedFunc(slices.Values(rounds), func(a, b Measurement) int {
		switch {
		case a.LatenessMillis.P50 < b.LatenessMillis.P50:
			return -1
		case a.LatenessMillis.P50 > b.LatenessMillis.P50:
			return 1
		}
		return 0
	})
	m := byP50[(len(rounds)-1)/2]
	median := func(figure func(*Measurement) *float64) {
		var values []float64
		for i := range rounds {
			values = append(values, *figure(&rounds[i]))
		}
		*figure(&m) = newRange(values).Median
	}
	for _, figure := range []func(*Measurement) *float64{
		func(m *Measurement) *float64 { return &m.Seconds },
		func(m *Measurement) *float64 { return &m.InsertedPerSecond },
		func(m *Measurement) *float64 { return &m.PublishedPerSecond },
		func(m *Measurement) *float64 { return &m.PublishedPerMinute },
		func(m *Measurement) *float64 { return &m.StatementsPerSecond },
		func(m *Measurement) *float64 { return &m.StatementsPerJob },
		func(m *Measurement) *float64 { return &m.FirstSeconds },
		func(m *Measurement) *float64 { return &m.LatenessMillis.Min },
		func(m *Measurement) *float64 { return &m.LatenessMillis.P50 },
		func(m *Measurement) *float64 { return &m.LatenessMillis.P95 },
		func(m *Measurement) *float64 { return &m.LatenessMillis.P99 },
		func(m *Measurement) *float64 { return &m.LatenessMillis.P999 },
		func(m *Measurement) *float64 { return &m.LatenessMillis.Max },
	} {
		median(figure)
	}
	m.Distribution = slices.Clone(m.Distribution) // that of the round stays as it is
	for i := range m.Distribution {
		median(func(m *Measurement) *float64 { return &m.Distribution[i] })
	}
	m.Lost, m.Duplicated, m.Early, m.Connections, m.Rounds = 0, 0, 0, 0, nil
	var (
		errs    []error
		besides []Measurement
	)
	for _, r := range rounds {
		m.Lost, m.Duplicated, m.Early = m.Lost+r.Lost, m.Duplicated+r.Duplicated, m.Early+r.Early
		m.Connections = max(m.Connections, r.Connections)
		m.Rounds = append(m.Rounds, Round{r.PublishedPerSecond, r.LatenessMillis})
		errs = append(errs, r.err)
		if r.Beside != nil {
			besides = append(besides, *r.Beside)
		}
	}
	m.err = errors.Join(errs...)
	if len(besides) > 0 {
		u := combineRounds(besides)
		m.Beside = &u
	}
	m.ToFloor = combineRatios(rounds, func(m Measurement) *Ratio { return m.ToFloor })
	m.ToFloorQoS1 = combineRatios(rounds, func(m Measurement) *Ratio { return m.ToFloorQoS1 })
	if m.ToCeiling != nil {
		var shares []float64
		for _, r := range rounds {
			shares = append(shares, r.ToCeiling.Median)
		}
		share := newRange(shares)
		m.ToCeiling = &share
	}
	return m
}

func combineRatios(rounds []Measurement, of func(Measurement) *Ratio) *Ratio {
	var p50, p99, latest []float64
	for _, r := range rounds {
		if to := of(r); to != nil {
			p50, p99, latest = append(p50, to.P50.Median), append(p99, to.P99.Median), append(latest, to.Max.Median)
		}
	}
	if len(p50) == 0 {
		return nil
	}
	return &Ratio{P50: newRange(p50), P99: newRange(p99), Max: newRange(latest)}
}
