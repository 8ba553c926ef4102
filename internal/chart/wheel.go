package chart

import (
	"math"
	"strconv"
)

// Wheel is the next minute as the face of a clock: for each of its seconds what is due, as a bar from
// the ring outwards. The hand is now, and time goes clockwise, so that a second stays where it is while the hand
// comes nearer.
type Wheel struct {
	// ID, Title, Desc, Width and Heading are as those of Lines. Desc defaults to the sum and the fullest second.
	ID, Title, Desc string
	Width           float64
	Heading         bool

	// Now is the second of the minute at which the hand is, 0 to 59.
	Now int
	// Counts are what is due in each second from now on; those after the sixtieth are not drawn.
	Counts []float64
	// Max is the count at the outer end. Defaults to a round number that is enough for all; see Steady.
	Max float64
	// Center is what is written in the middle, large, and Below what it is. Center defaults to the sum.
	Center, Below string
}

// SVG returns the chart as an svg element.
func (w Wheel) SVG() string { return drawn(w).svg("") }

func (w Wheel) frame() frame { return frame{w.ID, w.Title, w.Desc, w.Width, w.Heading} }

const wheelSeconds = 60

// count is what is due so many seconds from now.
func (w Wheel) count(ahead int) float64 {
	if ahead < len(w.Counts) {
		return part(w.Counts[ahead])
	}
	return 0
}

func (w Wheel) now() int { return ((w.Now % wheelSeconds) + wheelSeconds) % wheelSeconds }

func (w Wheel) summary() string {
	sum, fullest := 0.0, 0
	for i := range wheelSeconds {
		if sum += w.count(i); w.count(i) > w.count(fullest) {
			fullest = i
		}
	}
	summary := "Nothing is due within a minute."
	if sum > 0 {
		summary = Count.Format(sum) + " due within a minute. Fullest second: in " + strconv.Itoa(fullest) + " s, with " + Count.Format(w.count(fullest)) + "."
	}
	return summary
}

func (w Wheel) draw(c *canvas, width float64) float64 {
	const label = 20 // room for the numbers of the clock
	size := math.Min(width, 300)
	x, y := width/2, size/2
	outer := size/2 - label - 2
	inner := outer * 0.52
	var e extent
	sum := 0.0
	for i := range wheelSeconds {
		e.add(w.count(i), false)
		sum += w.count(i)
	}
	_, high := Axis{Max: w.Max}.bounds(e, 2)
	radius := scale{low: 0, high: high, from: inner, to: outer}
	c.circle("g", x, y, (inner+outer)/2)
	c.circle("g", x, y, outer)
	for second := 0; second < wheelSeconds; second += 15 {
		dx, dy := direction(float64(second))
		c.text("k", "middle", x+dx*(outer+label/2+2), y+dy*(outer+label/2)+4, ":"+strconv.Itoa(100 + second)[1:])
	}
	for i := range wheelSeconds {
		second := float64((w.now() + i) % wheelSeconds)
		if count := w.count(i); count > 0 {
			hint := "in " + strconv.Itoa(i) + " s: " + Count.Format(count)
			c.path("b c1", sector(x, y, inner, math.Max(radius.at(count), inner+2), second), hint)
		}
	}
	c.circle("a", x, y, inner)
	// The hand is at the begin of the second, and only outside of the text in the middle.
	dx, dy := direction(float64(w.now()))
	c.line("hand", x+dx*(inner-10), y+dy*(inner-10), x+dx*outer, y+dy*outer)
	c.drawMiddle(w, x, y, inner, sum, high)
	return size
}

// drawMiddle writes what is within the ring.
func (c *canvas) drawMiddle(w Wheel, x, y, inner, sum, high float64) {
	center := w.Center
	if center == "" {
		center = Count.Format(sum)
	}
	room := 2*inner - 28
	c.text("big", "middle", x, y+4, clip(center, room/2)) // twice as large as others
	c.text("n", "middle", x, y+20, clip(w.Below, room))
	if inner < 55 { // no room
		return
	}
	c.text("k", "middle", x, y-inner/2+2, clip("ring: "+Count.Format(high), room*0.8))
}

// direction of a second on the face: 0 is at the top.
func direction(second float64) (dx, dy float64) {
	dy, dx = math.Sincos(2*math.Pi*second/wheelSeconds - math.Pi/2)
	return dx, dy
}

// sector is the part of a ring that belongs to a second, with a narrow space after it.
func sector(x, y, from, to, second float64) string {
	corner := func(command string, r, second float64) string {
		dx, dy := direction(second)
		return command + number(x+r*dx) + " " + number(y+r*dy)
	}
	const begin, end = 0.08, 0.92
	arc := func(r float64, sweep string) string { return "A" + number(r) + " " + number(r) + " 0 0 " + sweep + " " }
	return corner("M", from, second+begin) + corner("L", to, second+begin) + corner(arc(to, "1"), to, second+end) +
		corner("L", from, second+end) + corner(arc(from, "0"), from, second+begin) + "Z"
}
