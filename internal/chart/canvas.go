package chart

import (
	"math"
	"strconv"
	"strings"
)

// Chart is one of this package's charts.
type Chart interface {
	// SVG returns an svg element.
	SVG() string

	frame() frame
	// draw draws the chart in a width, and returns its height.
	draw(c *canvas, width float64) (height float64)
	// summary describes the values, for a chart that has no Desc.
	summary() string
}

// frame is what all charts are given.
type frame struct {
	id, title, desc string
	width           float64
	heading         bool
}

// picture is a chart that has been drawn.
type picture struct {
	id, title, desc string
	width, height   float64
	inner           string // the elements
}

// noData is what a chart without values says.
const noData = "no data"

// defaultWidth is that of a viewBox, in units of which a text is 12 high. On a phone of 320 pixels a
// unit is nearly a pixel.
const defaultWidth = 320

// cleanWidth returns the width of a viewBox.
func cleanWidth(width float64) float64 {
	if !(width >= 200 && width <= 4000) { // NaN is neither
		return defaultWidth
	}
	return width
}

// drawn draws a chart, with its title above if that is wanted.
func drawn(chart Chart) picture {
	f := chart.frame()
	p := picture{id: cleanID(f.id), title: f.title, desc: f.desc, width: cleanWidth(f.width)}
	if p.desc == "" {
		p.desc = chart.summary()
	}
	var c canvas
	p.height = chart.draw(&c, p.width)
	p.inner = c.String()
	if f.heading {
		const tall = 20
		var h canvas
		h.text("h", "start", 0, 13, clip(f.title, p.width*fontSize/16))
		h.put(`<g transform="translate(0 `, number(tall), `)">`, p.inner, "</g>")
		p.inner, p.height = h.String(), p.height+tall
	}
	return p
}

// svg returns the element. The place is its position in another one, or empty.
func (p picture) svg(place string) string {
	var c canvas
	c.put(`<svg xmlns="http://www.w3.org/2000/svg" class="chart"`, place, ` viewBox="0 0 `, number(p.width), ` `, number(p.height),
		`" role="img" aria-labelledby="`, p.id, `-t `, p.id, `-d"><title id="`, p.id, `-t">`, escape(p.title),
		`</title><desc id="`, p.id, `-d">`, escape(p.desc), `</desc>`, p.inner, `</svg>`)
	return c.String()
}

// canvas is the text of an SVG while it is written. Coordinates are units of the viewBox.
type canvas struct{ strings.Builder }

func (c *canvas) put(parts ...string) {
	for _, p := range parts {
		c.WriteString(p)
	}
}

// attributes writes numbers, with the names of their attributes.
func (c *canvas) attributes(names string, values ...float64) {
	for i, name := range strings.Fields(names) {
		c.put(" ", name, `="`, number(values[i]), `"`)
	}
}

// shape draws an element that is given by numbers. A pointing device shows its hint.
func (c *canvas) shape(name, class, hint, names string, values ...float64) {
	c.put("<", name, ` class="`, class, `"`)
	c.attributes(names, values...)
	c.end(name, hint)
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	c.shape("line", class, "", "x1 y1 x2 y2", x1, y1, x2, y2)
}

func (c *canvas) rect(class string, x, y, width, height float64, hint string) {
	c.shape("rect", class, hint, "x y width height", x, y, width, height)
}

func (c *canvas) circle(class string, x, y, r float64) {
	c.shape("circle", class, "", "cx cy r", x, y, r)
}

// path draws commands, which must contain nothing but letters and numbers.
func (c *canvas) path(class, commands, hint string) {
	if commands == "" {
		return
	}
	c.put(`<path class="`, class, `" d="`, commands, `"`)
	c.end("path", hint)
}

func (c *canvas) end(name, hint string) {
	if hint == "" {
		c.put("/>")
		return
	}
	c.put("><title>", escape(hint), "</title></", name, ">")
}

// text writes a text whose start, middle or end is at x, and whose base line is at y.
func (c *canvas) text(class, anchor string, x, y float64, text string) {
	if text == "" {
		return
	}
	c.put(`<text class="`, class, `"`)
	if anchor != "start" {
		c.put(` text-anchor="`, anchor, `"`)
	}
	c.attributes("x y", x, y)
	c.put(">", escape(text), "</text>")
}

// number writes a coordinate with one decimal at most. What is not finite, and so a bug, becomes 0.
func number(v float64) string {
	if !(math.Abs(v) < 1e7) {
		v = 0
	}
	v = math.Round(v*10) / 10
	if v == 0 {
		v = 0 // not -0
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// escape makes a text safe for an element and for an attribute in double quotes. What XML does not
// allow, and what changes the direction of the text around it, becomes U+FFFD.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		safe := string(r)
		switch {
		case r == '&':
			safe = "&amp;"
		case r == '<':
			safe = "&lt;"
		case r == '>':
			safe = "&gt;"
		case r == '"':
			safe = "&#34;"
		case r == '\'':
			safe = "&#39;"
		case replaced(r):
			safe = "\ufffd"
		}
		b.WriteString(safe)
	}
	return b.String()
}

// replaced reports whether a character is not written as it is.
func replaced(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffe || r == 0xffff ||
		r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// cleanID keeps what is safe in an id, also within a list of ids.
func cleanID(id string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, id)
	if clean == "" {
		return "chart"
	}
	return clean
}
