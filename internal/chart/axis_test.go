package chart

import (
	"strings"
	"testing"
)

func labels(ticks []Tick) string {
	var list []string
	for _, t := range ticks {
		list = append(list, t.Label)
	}
	return strings.Join(list, " | ")
}

// TestTicks: bounds and ticks are round numbers.
func TestTicks(t *testing.T) {
	for _, test := range []struct {
		axis      Axis
		low, high float64
		want      string
	}{
		{Axis{}, 0, 97, "0 | 50 | 100"},
		{Axis{}, 3, 2210, "0 | 1,000 | 2,000 | 3,000"},
		{Axis{}, 0, 0, "0 | 0.5 | 1"},
		{Axis{}, -3, 12, "−5 | 0 | 5 | 10 | 15"},
		{Axis{Unit: Duration}, 0, 0.0031, "0 | 1 ms | 2 ms | 3 ms | 4 ms"},
		{Axis{Unit: Duration}, 0, 200, "0 | 1 min | 2 min | 3 min | 4 min"},
		{Axis{Unit: Share}, 0, 0.4, "0 % | 10 % | 20 % | 30 % | 40 %"},
		{Axis{Unit: Duration, Log: true}, 0.00023, 0.7, "100 µs | 1 ms | 10 ms | 100 ms | 1 s"},
		{Axis{Unit: Duration, Log: true}, 0.00023, 0.0007, "100 µs | 200 µs | 500 µs | 1 ms"},
		{Axis{Unit: Duration, Log: true}, 0, 0, "100 µs | 1 ms | 10 ms | 100 ms | 1 s"},
		{Axis{Log: true}, 1, 1e8, "1 | 100 | 10k | 1M | 100M"},
		{Axis{Min: 1, Max: 2}, 0, 97, "1 | 1.5 | 2"},
	} {
		var e extent
		e.add(test.low, test.axis.Log)
		e.add(test.high, test.axis.Log)
		low, high := test.axis.bounds(e, yTicks)
		if got := labels(test.axis.marks(low, high, yTicks)); got != test.want {
			t.Errorf("%+v of %v to %v: %s, want %s", test.axis, test.low, test.high, got, test.want)
		}
	}
}

// TestSteady: a spike is seen at once, and the axis stays as it is until it has been too large for long.
func TestSteady(t *testing.T) {
	s := Steady{Patience: 3}
	for i, step := range []struct{ value, want float64 }{
		{90, 100},
		{101, 150},
		{99, 150},
		{40, 150},
		{60, 150},
		{74, 150},
		{60, 150},
		{120, 150},
		{60, 150},
		{90, 150},
		{9, 150},
		{8, 150},
		{20, 20},
		{9, 20},
		{9, 20},
		{9, 10},
		{3000, 3000},
	} {
		if a := s.Fit(Axis{}, 0, step.value); a.Min != 0 || a.Max != step.want {
			t.Errorf("step %d, after %v: %v to %v, want 0 to %v", i, step.value, a.Min, a.Max, step.want)
		}
	}
	s = Steady{Patience: 2}
	for i, step := range []struct{ value, want float64 }{{0.9, 1}, {1.1, 10}, {0.9, 10}, {1.1, 10}, {0.9, 10}, {0.8, 1}, {0.9, 1}} {
		if a := s.Fit(Axis{Log: true}, 0.2, step.value); a.Max != step.want {
			t.Errorf("logarithmic, step %d, after %v: %v to %v, want to %v", i, step.value, a.Min, a.Max, step.want)
		}
	}
}
