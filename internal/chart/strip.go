package chart

import (
	"math"
	"strconv"
	"strings"
)

// Strip shows who owns each of some things, such as shards: by a colour, and by a letter, so that it can
// be read without colours.
type Strip struct {
	// ID, Title, Desc, Width and Heading are as those of Lines. Desc defaults to who owns what.
	ID, Title, Desc string
	Width           float64
	Heading         bool

	// Owners are the names of the owners. An owner keeps its letter and colour as long as it keeps
	// its place here.
	Owners []string
	// Cells has the index of its owner for each thing, or another number if it has none.
	Cells []int
	// PerRow is how many cells are beside each other. Defaults to 16.
	PerRow int
	// What is the name of a thing in hints, "shard" by default; None that of no owner.
	What, None string
}

// SVG returns the chart as an svg element.
func (s Strip) SVG() string { return drawn(s).svg("") }

func (s Strip) frame() frame { return frame{s.ID, s.Title, s.Desc, s.Width, s.Heading} }

// Letter returns the mark of an owner, which a table beside the strip can repeat: A to Z, AA, AB.
func Letter(owner int) string {
	if owner < 0 {
		return ""
	}
	return Letter(owner/26-1) + string(rune('A'+owner%26))
}

func (s Strip) what() string {
	if s.What == "" {
		return "shard"
	}
	return s.What
}

// names lists the owners, and at the end what has none.
func (s Strip) names() []string {
	none := s.None
	if none == "" {
		none = "no owner"
	}
	return append(append([]string(nil), s.Owners...), none)
}

// owner returns the index in names.
func (s Strip) owner(cell int) int {
	if o := s.Cells[cell]; o >= 0 && o < len(s.Owners) {
		return o
	}
	return len(s.Owners)
}

func (s Strip) summary() string {
	names, owned := s.names(), make([][]int, len(s.Owners)+1)
	for i := range s.Cells {
		o := s.owner(i)
		owned[o] = append(owned[o], i)
	}
	var b strings.Builder
	for o, cells := range owned {
		if len(cells) > 0 {
			b.WriteString(names[o] + ": " + strconv.Itoa(len(cells)) + " (" + ranges(cells) + "). ")
		}
	}
	return strings.TrimSpace(b.String())
}

// ranges writes numbers as 0–3, 7.
func ranges(numbers []int) string {
	var b strings.Builder
	for i := 0; i < len(numbers); {
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(numbers[i]))
		if end > i {
			b.WriteString("–" + strconv.Itoa(numbers[end]))
		}
		i = end + 1
	}
	return b.String()
}

func (s Strip) draw(c *canvas, width float64) float64 {
	names, counts := s.names(), make([]int, len(s.Owners)+1)
	for i := range s.Cells {
		counts[s.owner(i)]++
	}
	var entries []entry
	for o, name := range names {
		e := entry{class: classes(o), mark: Letter(o), name: name + " · " + strconv.Itoa(counts[o])}
		if o == len(s.Owners) {
			e.class, e.mark = "none", ""
			if counts[o] == 0 {
				continue
			}
		}
		entries = append(entries, e)
	}
	y := c.drawLegend(entries, 0, width)
	perRow := s.PerRow
	if perRow < 1 || perRow > 64 {
		perRow = 16
	}
	side := width / float64(perRow)
	height := math.Min(side, 26)
	for i := range s.Cells {
		o := s.owner(i)
		x, top := float64(i%perRow)*side, y+float64(i/perRow)*height
		class, mark := "b "+classes(o), Letter(o)
		if o == len(s.Owners) {
			class, mark = "b none", ""
		}
		c.rect(class, x+0.5, top+0.5, side-1, height-1, s.what()+" "+strconv.Itoa(i)+": "+names[o])
		if textWidth(mark) < side && height >= fontSize {
			c.text("on", "middle", x+side/2, top+height/2+4, mark)
		}
	}
	rows := (len(s.Cells) + perRow - 1) / perRow
	if rows == 0 {
		c.text("n", "start", 0, y+12, noData)
		y += legendRow
	}
	return y + float64(rows)*height
}
