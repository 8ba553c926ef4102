package chart

import "math"

// Bars are a histogram: a bar for each of equal steps of the horizontal axis.
type Bars struct {
	// ID, Title, Desc, Width, Height and Heading are as those of Lines. Desc defaults to the sum and the highest bar.
	ID, Title, Desc string
	Width, Height   float64
	Heading         bool

	// X is the axis from From to the end of the last bar; its bounds are not used.
	X, Y Axis
	// From is where the first bar begins, and Step how wide each is, in units of X. Step defaults to 1.
	From, Step float64
	// Names, if set, replace the range of a bar, in hints and below the bars: "1", "2–3", "4–7".
	Names  []string
	Values []float64
}

// SVG returns the chart as an svg element.
func (b Bars) SVG() string { return drawn(b).svg("") }

func (b Bars) frame() frame { return frame{b.ID, b.Title, b.Desc, b.Width, b.Heading} }

func (b Bars) step() float64 {
	if !(b.Step > 0 && b.Step < largest) {
		return 1
	}
	return b.Step
}

// name says what a bar is.
func (b Bars) name(i int) string {
	if i < len(b.Names) {
		return b.Names[i]
	}
	from := b.from() + float64(i)*b.step()
	return b.X.Unit.Format(from) + " – " + b.X.Unit.Format(from+b.step())
}

func (b Bars) from() float64 {
	if !usable(b.From) {
		return 0
	}
	return clamp(b.From, -largest, largest)
}

func (b Bars) summary() string {
	sum, highest := 0.0, -1
	for i, v := range b.Values {
		if usable(v) {
			if sum += v; highest < 0 || v > b.Values[highest] {
				highest = i
			}
		}
	}
	summary := "no values"
	if highest >= 0 {
		summary = "In all " + b.Y.Unit.Format(sum) + ". Highest: " + b.name(highest) + " with " + b.Y.Unit.Format(b.Values[highest]) + "."
	}
	return withLabel(b.Y.Label, summary)
}

func (b Bars) draw(c *canvas, width float64) float64 {
	var up extent
	for _, v := range b.Values {
		up.add(v, b.Y.Log)
	}
	x := b.X
	x.Log, x.Min = false, b.from()
	x.Max = x.Min + math.Max(1, float64(len(b.Values)))*b.step()
	if x.Max-x.Min <= 1e-9*math.Abs(x.Max) { // steps too small beside the position
		x.Min, x.Max = 0, math.Max(1, float64(len(b.Values)))
	}
	if len(b.Names) > 0 {
		x.Ticks = nil
		for i := range min(len(b.Names), len(b.Values)) {
			x.Ticks = append(x.Ticks, Tick{x.Min + (float64(i)+0.5)*(x.Max-x.Min)/float64(len(b.Values)), b.Names[i]})
		}
	}
	p := c.drawAxes(x, b.Y, up, width, 0, plotHeight(b.Height))
	each := (p.x.to - p.x.from) / math.Max(1, float64(len(b.Values)))
	between := clamp(each/5, 0, 2)
	zero := p.y.at(0)
	for i, v := range b.Values {
		if !usable(v) || v == 0 {
			continue
		}
		at := p.y.at(v)
		height := math.Max(math.Abs(zero-at), 1.5) // so that few beside many can be seen
		y := zero - height
		if v < 0 {
			y = zero
		}
		c.rect("b c1", p.x.from+float64(i)*each+between/2, y, each-between, height, b.name(i)+": "+b.Y.Unit.Format(v))
	}
	if !up.any {
		c.text("n", "middle", (p.x.from+p.x.to)/2, (p.y.from+p.y.to)/2+4, noData)
	}
	return p.bottom
}
