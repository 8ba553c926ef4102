package bench

import (
	"errors"
	"testing"
)

func TestRatiosAreThoseOfARound(t *testing.T) {
	round := func(floorQoS1, floor, reactor float64) []Measurement {
		late := func(name string, ms float64) Measurement {
			return Measurement{Name: name, LatenessMillis: Percentiles{P50: ms, P99: 2 * ms}, Distribution: []float64{ms}}
		}
		return []Measurement{late(floorQoS1Name, floorQoS1), late(floorName, floor), late(reactorName, reactor)}
	}
	// The machine is ten times slower in the second round. That is no difference between the two.
	samples := samples{}
	for _, r := range [][]Measurement{round(1, 2, 3), round(10, 20, 20), round(1, 4, 4)} {
		relate(r)
		for _, m := range r {
			samples.add(m)
		}
	}
	m := samples.take(reactorName)
	if want := (Range{Median: 1, Min: 1, Max: 1.5}); m.ToFloor.P50 != want || m.ToFloor.P99 != want {
		t.Errorf("%+v to the floor, want %+v", m.ToFloor, want)
	}
	if want := (Range{Median: 3, Min: 2, Max: 4}); m.ToFloorQoS1.P50 != want {
		t.Errorf("%+v to the floor of QoS 1, want %+v", m.ToFloorQoS1, want)
	}
	if m.LatenessMillis.P50 != 4 || m.Distribution[0] != 4 || len(m.Rounds) != 3 {
		t.Errorf("%+v, want the medians", m)
	}
	if floor := samples.take(floorQoS1Name); floor.ToFloor != nil || floor.ToFloorQoS1 != nil {
		t.Errorf("the floor has ratios to itself: %+v", floor)
	}
}

func TestNoRoundIsForgotten(t *testing.T) {
	lost := errors.New("1 lost")
	m := combineRounds([]Measurement{
		{PublishedPerSecond: 1}, {PublishedPerSecond: 5, Lost: 1, err: lost, Beside: &Measurement{Early: 1}}, {PublishedPerSecond: 3, Beside: &Measurement{Early: 1}},
	})
	if m.PublishedPerSecond != 3 || m.Lost != 1 || !errors.Is(m.err, lost) || m.Beside.Early != 2 {
		t.Errorf("%+v", m)
	}
}

func TestRange(t *testing.T) {
	for text, values := range map[string][]float64{
		"2.00": {2}, "2.50 (1.00–4.00)": {4, 1, 3, 2}, "2.00 (1.00–3.00)": {3, 2, 1},
	} {
		if got := newRange(values).String(); got != text {
			t.Errorf("%v: %q, want %q", values, got, text)
		}
	}
}
