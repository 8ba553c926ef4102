package chart

import "math"

// Document returns an SVG file with several charts: so many beside each other, with a legend for all
// of them above if names are given. It has a style sheet and a ground of its own, and the theme of the viewer's system.
func Document(columns int, names []string, charts ...Chart) string {
	const between = 24
	columns = max(1, min(columns, len(charts)))
	var pictures []picture
	cell := 0.0
	for _, chart := range charts {
		p := drawn(chart)
		pictures = append(pictures, p)
		cell = math.Max(cell, p.width)
	}
	width := float64(columns)*(cell+between) - between
	var inner canvas
	entries := make([]entry, len(names))
	for i, name := range names {
		entries[i] = entry{class: classes(i), line: true, name: name}
	}
	y := inner.drawLegend(entries, 0, width)
	if y > 0 {
		y += 8
	}
	for i := 0; i < len(pictures); i += columns {
		height := 0.0
		for n, p := range pictures[i:min(i+columns, len(pictures))] {
			var place canvas
			place.attributes("x y width height", float64(n)*(cell+between), y, p.width, p.height)
			inner.put(p.svg(place.String()))
			height = math.Max(height, p.height)
		}
		y += height + between
	}
	const margin = 14
	var c canvas
	c.put(`<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="`, number(-margin), ` `, number(-margin), ` `,
		number(width+2*margin), ` `, number(y-between+2*margin), `"><style>`, Stylesheet, `.ground{fill:var(--ground)}</style>`)
	c.rect("ground", -margin, -margin, width+2*margin, y-between+2*margin, "")
	c.put(inner.String(), "</svg>\n")
	return c.String()
}
