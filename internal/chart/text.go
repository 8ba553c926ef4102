package chart

import (
	"math"
	"strconv"
	"strings"
)

// fontSize is that of all texts but headings, in units of the viewBox. The style sheet may make texts
// smaller, never larger.
const fontSize = 12

// runeWidth returns how wide a character is at most. The fonts of the viewer are not known: these are
// the widths of DejaVu Sans, which is wider than most.
func runeWidth(r rune) float64 {
	em := 0.8
	switch {
	case strings.ContainsRune(" ijlI.,:;|!'·", r):
		em = 0.34
	case strings.ContainsRune("frt()[]/-", r):
		em = 0.42
	case strings.ContainsRune("mwMW@%—…", r):
		em = 1
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		em = 0.64
	case r >= 0x1100, replaced(r):
		em = 1.15
	}
	return em * fontSize
}

// textWidth returns how wide a text is at most.
func textWidth(text string) (width float64) {
	for _, r := range text {
		width += runeWidth(r)
	}
	return width
}

// clip shortens a text that would be wider. It reads no more of it than has room.
func clip(text string, width float64) string {
	const more = "…"
	used, fits := 0.0, 0 // fits is where the text ends if it is shortened
	for i, r := range text {
		if used+runeWidth('…') <= width {
			fits = i
		}
		if used += runeWidth(r); used > width {
			return text[:fits] + more
		}
	}
	return text
}

// Unit says how the numbers of an axis are written.
type Unit int

const (
	// Count is a plain number: 250, 2,500, 25k, 2.5M.
	Count Unit = iota
	// Duration is in seconds: 0.00025 is 250 µs, 90 is 1.5 min.
	Duration
	// Relative is in seconds from now: -90 is −1.5 min, 0 is now.
	Relative
	// Share is of one: 0.5 is 50 %.
	Share
)

// Format writes a value with at most three digits that count.
func (u Unit) Format(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	if v == 0 {
		v = 0 // not -0
	}
	switch u {
	case Duration:
		return signed(v, durationText)
	case Relative:
		switch {
		case v == 0:
			return "now"
		case v > 0:
			return "+" + durationText(v)
		}
		return signed(v, durationText)
	case Share:
		return signed(100*v, countText) + " %"
	}
	return signed(v, countText)
}

// signed uses the minus sign, which is as wide as a digit.
func signed(v float64, text func(float64) string) string {
	if v < 0 {
		return "−" + text(-v)
	}
	return text(v)
}

// step is a unit of time or a power of ten, and its name.
type step struct {
	size float64
	name string
}

var (
	durations  = []step{{86400, " d"}, {3600, " h"}, {60, " min"}, {1, " s"}, {1e-3, " ms"}, {1e-6, " µs"}}
	magnitudes = []step{{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}
)

func durationText(v float64) string {
	if v == 0 {
		return "0"
	}
	for _, d := range durations {
		if v >= d.size*0.9995 {
			return countText(v/d.size) + d.name
		}
	}
	return digits(v/1e-6) + " µs"
}

func countText(v float64) string {
	if v < 9999.5 {
		return digits(v)
	}
	for _, m := range magnitudes {
		if v >= m.size*0.9995 {
			return digits(v/m.size) + m.name
		}
	}
	return digits(v)
}

// digits writes three digits that count; of a number from 1,000 to 9,999 all.
func digits(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case v >= 999.5:
		text := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
		return text[:len(text)-3] + "," + text[len(text)-3:]
	}
	text := strconv.FormatFloat(v, 'g', 3, 64)
	if !strings.Contains(text, "e") {
		return text
	}
	v, _ = strconv.ParseFloat(text, 64)
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 9, 64), "0"), ".")
}
