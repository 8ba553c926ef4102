// Package chart draws charts as SVG, for reactor's page and for the bench's report. It imports only
// the standard library, because it is linked into the daemon.
//
//	lines.go    Lines: series over time, or over percentiles; logarithmic if asked
//	bars.go     Bars: a histogram, such as what is due in each of the next 60 seconds
//	rows.go     Rows: named rows, each a stack of parts, such as CPU time by process
//	strip.go    Strip: the shards, each with the letter and the colour of its owner
//	wheel.go    Wheel: the next minute as a ring
//	document.go Document: several charts as one SVG file
//
//	axis.go     units, bounds, ticks, and Steady, which keeps bounds from jumping
//	legend.go   names of series, in rows above the plot, so that they cover no line
//	canvas.go   the SVG text: escaping, numbers, elements
//	text.go     how wide a text is at most; how numbers are written
//	style.go    the colours of both themes, and the rules for the classes
//
// A chart is a struct of plain values; its method SVG returns an svg element that can be put into
// HTML as it is: every text is escaped, also control characters and those that change the direction
// of what follows. The same values give the same text, byte for byte. Values that are not finite are
// missing values: a line has a gap there. No number in the output is NaN or infinite.
//
// The element has a viewBox and no size of its own: it fills the width of what contains it. It has no
// style attributes and no scripts, so a Content-Security-Policy without 'unsafe-inline' allows it. Colours
// come from classes, whose rules are Rules, and from the variables in Light and Dark; a page that has a
// style sheet of its own contains Stylesheet, or the three parts of it. Put a chart into an element of
// the class "chart-box": then texts keep their size when the box is wide.
//
// A chart is an image for a screen reader: it has a name (Title) and a description (Desc, or else a
// summary of the values). Its ID must be unique in the page. What an operator must know exactly is
// in a table or a text beside it as well.
package chart
