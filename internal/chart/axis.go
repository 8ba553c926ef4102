package chart

import "math"

// Axis says what an axis shows.
type Axis struct {
	// Label says what the numbers are, and their unit if the ticks have none: "jobs / s".
	Label string
	Unit  Unit
	// Log makes the axis logarithmic. What is not positive is drawn at its lower end.
	Log bool
	// Min and Max are the bounds. Values outside are drawn at the bounds. If both are equal, the bounds
	// are round numbers around the values (for the horizontal axis of Lines: the first and the last).
	Min, Max float64
	// Ticks replaces the ticks that are chosen by default. A tick whose label has no room loses the label.
	Ticks []Tick
}

// Tick is a value of an axis that is marked.
type Tick struct {
	At    float64
	Label string
}

// Limits of what is drawn: larger numbers would overflow in between, and a shorter time than a
// tenth of a microsecond is no lateness.
const (
	largest  = 1e15
	smallest = 1e-7
)

// usable reports whether a value can be drawn.
func usable(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func clamp(v, low, high float64) float64 { return math.Max(low, math.Min(high, v)) }

// extent is the range of the values that it has seen.
type extent struct {
	low, high float64
	any       bool
}

// add takes a value; positive leaves out what a logarithmic axis cannot show.
func (e *extent) add(v float64, positive bool) {
	if !usable(v) || positive && v <= 0 {
		return
	}
	v = clamp(v, -largest, largest)
	if !e.any {
		e.low, e.high, e.any = v, v, true
	}
	e.low, e.high = math.Min(e.low, v), math.Max(e.high, v)
}

// given reports whether the axis has bounds that can be used.
func (a Axis) given() bool {
	return usable(a.Min) && usable(a.Max) && a.Max-a.Min > 1e-9*math.Abs(a.Max) && (!a.Log || a.Min > 0)
}

// bounds returns the ends of a vertical axis: round numbers, from 0 on if it is linear.
func (a Axis) bounds(e extent, ticks int) (low, high float64) {
	switch {
	case a.given():
		return clamp(a.Min, -largest, largest), clamp(a.Max, -largest, largest)
	case a.Log && !e.any:
		return 1e-4, 1
	case a.Log:
		low = math.Pow(10, math.Floor(math.Log10(clamp(e.low, smallest, largest))+1e-9))
		high = math.Pow(10, math.Ceil(math.Log10(clamp(e.high, smallest, largest))-1e-9))
		return low, math.Max(high, low*10)
	case !e.any || e.high-e.low < 1e-11 && math.Abs(e.high) < 1e-11:
		return 0, 1
	}
	low, high = math.Min(e.low, 0), math.Max(e.high, 0)
	step := a.step((high - low) / float64(ticks))
	return math.Floor(low/step+1e-9) * step, math.Ceil(high/step-1e-9) * step
}

// secondsSteps are the distances of ticks that people expect of a clock.
var secondsSteps = []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400}

// step returns the least round distance of ticks that is not below least.
func (a Axis) step(least float64) float64 {
	least = clamp(least, 1e-12, largest)
	if (a.Unit == Duration || a.Unit == Relative) && least > 0.5 {
		for _, s := range secondsSteps {
			if s >= least {
				return s
			}
		}
		const day = 86400
		return day * Axis{}.step(least/day)
	}
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, s := range []float64{1, 2, 5} {
		if s*power >= least*(1-1e-9) {
			return s * power
		}
	}
	return 10 * power
}

// marks returns the ticks between two bounds, about as many as asked for and never twice as many.
func (a Axis) marks(low, high float64, about int) (ticks []Tick) {
	if len(a.Ticks) > 0 {
		for _, t := range a.Ticks {
			if usable(t.At) && t.At >= low && t.At <= high {
				ticks = append(ticks, t)
			}
		}
		return ticks
	}
	if a.Log {
		return a.logMarks(low, high, about)
	}
	step := a.step((high - low) / float64(about))
	for i := math.Ceil(low/step - 1e-6); i*step <= high+step*1e-6 && len(ticks) < 2*about+2; i++ {
		ticks = append(ticks, Tick{i * step, a.Unit.Format(i * step)})
	}
	return ticks
}

// logMarks are powers of ten, each second or third if there are many; within few decades also 2 and 5.
func (a Axis) logMarks(low, high float64, about int) (ticks []Tick) {
	first, last := math.Floor(math.Log10(low)+1e-9), math.Ceil(math.Log10(high)-1e-9)
	every := math.Max(1, math.Ceil((last-first)/float64(about)))
	within := []float64{1}
	if 3*(last-first) <= float64(about)+1 {
		within = []float64{1, 2, 5}
	}
	for p := first; p <= last; p += every {
		for _, w := range within {
			if v := w * math.Pow(10, p); v >= low*(1-1e-9) && v <= high*(1+1e-9) {
				ticks = append(ticks, Tick{v, a.Unit.Format(v)})
			}
		}
	}
	return ticks
}

// scale maps values to coordinates.
type scale struct {
	low, high float64
	log       bool
	from, to  float64 // where low and high are drawn
}

// at returns the coordinate of a value, between from and to.
func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(math.Max(v, s.low))
	}
	return s.from + (s.to-s.from)*clamp((v-low)/(high-low), 0, 1)
}

// Steady keeps the bounds of an axis from jumping while a chart is drawn again and again. An axis
// grows at once, and shrinks when for Patience drawings half of it, or a decade of a
// logarithmic one, would have been enough. It belongs to one goroutine.
type Steady struct {
	Patience int // defaults to 30

	low, high float64
	calm      int // for how many drawings less would have been enough
	next      extent
}

// Fit returns the axis with bounds that hold the values from low to high.
func (s *Steady) Fit(a Axis, low, high float64) Axis {
	var e extent
	e.add(low, a.Log)
	e.add(high, a.Log)
	a.Min, a.Max = 0, 0
	a.Min, a.Max = a.bounds(e, yTicks)
	patience := s.Patience
	if patience <= 0 {
		patience = 30
	}
	enough := (a.Max-a.Min)*2 <= s.high-s.low
	if a.Log {
		enough = a.Min > s.low*5 || a.Max < s.high/5
	}
	switch {
	case s.low == s.high: // the first
		s.low, s.high = a.Min, a.Max
	case enough && a.Min >= s.low && a.Max <= s.high:
		s.calm++
		s.next.add(a.Min, false)
		s.next.add(a.Max, false)
		if s.calm >= patience {
			s.low, s.high, s.calm, s.next = s.next.low, s.next.high, 0, extent{}
		}
	default:
		s.low, s.high, s.calm, s.next = math.Min(s.low, a.Min), math.Max(s.high, a.Max), 0, extent{}
	}
	a.Min, a.Max = s.low, s.high
	return a
}
