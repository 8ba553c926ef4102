package chart

// The legend has rows of its own above the plot, so that it covers no line.

const legendRow = 18 // the height of a row

// entry is a name in a legend, and the class of what it names.
type entry struct {
	class string // of the series
	line  bool   // a piece of a line, and not a filled box
	mark  string // a text within the box
	name  string
}

const swatch = 22 // the width of the sample, without the space after it

// drawLegend draws the entries from x on, and returns the height. Names that have no room are shortened;
// a pointing device shows the whole.
func (c *canvas) drawLegend(entries []entry, x, width float64) float64 {
	at, y := x, 0.0
	for i, e := range entries {
		name := clip(e.name, width-swatch-6)
		needed := swatch + 6 + textWidth(name) + 12
		if i > 0 && at+needed-12 > x+width {
			at, y = x, y+legendRow
		}
		c.put("<g>")
		if name != e.name {
			c.put("<title>", escape(e.name), "</title>")
		}
		if e.line {
			c.path("l "+e.class, "M"+number(at)+" "+number(y+9)+"h"+number(swatch), "")
		} else {
			c.rect("b "+e.class, at+4, y+2, 14, 14, "")
			c.text("on", "middle", at+11, y+13, e.mark)
		}
		c.text("n", "start", at+swatch+6, y+13, name)
		c.put("</g>")
		at += needed
	}
	if len(entries) == 0 {
		return 0
	}
	return y + legendRow + 6
}

// classes returns those of the i-th series: a colour, and a pattern of dashes.
func classes(i int) string {
	const digit = "0123456789"
	colour := 1 + i%Colours
	// What comes after all colours were used has the next pattern.
	dashes := 1 + (i+i/Colours)%Colours
	return "c" + digit[colour:colour+1] + " d" + digit[dashes:dashes+1]
}
