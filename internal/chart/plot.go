package chart

// plot is the area between two axes.
type plot struct {
	x, y   scale
	bottom float64 // of everything, with the labels of the axes
}

const (
	left   = 54 // for the labels of the vertical axis, so that the plot never moves with them
	right  = 12
	yTicks = 4
	// defaultHeight is that of the plot, without legend and labels.
	defaultHeight = 130
)

func plotHeight(height float64) float64 {
	if !(height >= 40 && height <= 4000) {
		return defaultHeight
	}
	return height
}

// drawAxes draws grid, ticks and labels. x has bounds already.
func (c *canvas) drawAxes(x, y Axis, values extent, width, top, height float64) plot {
	if y.Label != "" {
		c.text("n", "start", 0, top+11, clip(y.Label, width))
		top += 18
	}
	top += 5 // half of the topmost label
	bottom := top + height
	p := plot{
		x: scale{low: x.Min, high: x.Max, log: x.Log, from: left, to: width - right},
		y: scale{log: y.Log, from: bottom, to: top},
	}
	about := yTicks
	if y.Log {
		about = 6 // each power of ten, if they have room
	}
	p.y.low, p.y.high = y.bounds(values, yTicks)
	last := bottom + fontSize
	for _, t := range y.marks(p.y.low, p.y.high, max(2, min(about, int(height/20)))) {
		at := p.y.at(t.At)
		c.line("g", left, at, width-right, at)
		if last-at >= fontSize {
			c.text("k", "end", left-6, at+4, clip(t.Label, left-6))
			last = at
		}
	}
	c.line("a", left, bottom, width-right, bottom)
	labelWidth := 50.0 // of a usual label, with the space after it
	if x.Unit == Relative {
		labelWidth = 58 // it has a sign
	}
	end := 0.0
	for _, t := range x.marks(x.Min, x.Max, max(2, int((width-left-right)/labelWidth))) {
		at := p.x.at(t.At)
		c.line("a", at, bottom, at, bottom+4)
		half := textWidth(t.Label) / 2
		if middle := clamp(at, half, width-half); middle-half >= end && half > 0 && 2*half <= width {
			c.text("k", "middle", middle, bottom+16, t.Label)
			end = middle + half + 6
		}
	}
	p.bottom = bottom + 20
	if x.Label != "" {
		c.text("n", "end", width-right, p.bottom+12, clip(x.Label, width-right))
		p.bottom += 17
	}
	return p
}
