package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the charts are now to testdata")

// TestGolden: the same values give the same text. After a change that is meant, look at the files:
//
//	go test ./internal/chart -update
func TestGolden(t *testing.T) {
	all := samples()
	texts := map[string]string{}
	for name, chart := range all {
		if !strings.HasPrefix(name, "empty") {
			texts[name] = chart.SVG()
		}
	}
	texts["document"] = Document(2, []string{"p50", "p99", "max"}, all["lateness"], all["published"], all["sizes"])
	for name, text := range texts {
		file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".svg")
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(want) {
			t.Errorf("%s differs from %s", name, file)
		}
	}
}

func TestCharts(t *testing.T) {
	for name, chart := range samples() {
		t.Run(name, func(t *testing.T) { check(t, chart) })
	}
}

// TestHostile: no text becomes an element, or leaves its attribute.
func TestHostile(t *testing.T) {
	for name, chart := range samples() {
		text := chart.SVG()
		for _, bad := range []string{"<script", "\x00", "\xff", "\u202e"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s contains %q", name, bad)
			}
		}
	}
}

// TestText: what a screen reader says of a chart.
func TestText(t *testing.T) {
	all := samples()
	for name, want := range map[string][]string{
		"published":   {`role="img" aria-labelledby="published-t published-d"`, `<title id="published-t">Published</title>`, "jobs / s. all instances: last 2,620, least 2,118, greatest 3,025."},
		"minute":      {"jobs due. In all 2,", "+7 s – +8 s"},
		"shards":      {"reactor-1: 13 (0–12). ", "no owner: 4 (60–63)."},
		"wheel":       {"due within a minute. Fullest second: in "},
		"cpu":         {"ceiling: 35.7, subscriber 9.2, postgres 6.5"},
		"empty wheel": {"Nothing is due within a minute."},
		"empty lines": {noData},
	} {
		text := all[name].SVG()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not contain %q:\n%s", name, w, text)
			}
		}
	}
}

// TestGaps: where a value is missing, or points are too far from each other, a new line begins.
func TestGaps(t *testing.T) {
	l := Lines{Gap: 2, Series: []Series{{"a", []Point{{0, 1}, {1, 1}, {2, math.NaN()}, {3, 1}, {8, 1}, {9, 1}}}}}
	if text := l.SVG(); strings.Count(text, "h0") != 3 || strings.Count(text, "L") != 2 {
		t.Errorf("want three pieces, of 2, 1 and 2 points:\n%s", text)
	}
}

func FuzzCharts(f *testing.F) {
	f.Add(byte(0), "p50", []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8}, 360.0, 0.0, 0.0)
	f.Add(byte(17), "a<b>&\"'\x1b", []byte("0123456789abcdef0123456789abcdef"), math.NaN(), -1.0, math.Inf(1))
	f.Add(byte(66), strings.Repeat("wide ", 40), bytes.Repeat([]byte{0xff, 0x7f}, 40), 200.0, 1e-300, 1e300)
	f.Fuzz(func(t *testing.T, kind byte, text string, data []byte, width, low, high float64) {
		text = text[:min(len(text), 120)]
		var values []float64
		for len(data) >= 8 && len(values) < 24 {
			var bits uint64
			for _, b := range data[:8] {
				bits = bits<<8 | uint64(b)
			}
			values, data = append(values, math.Float64frombits(bits)), data[8:]
		}
		axis := Axis{Label: text, Unit: Unit(kind / 5 % 4), Log: kind&0x40 != 0, Min: low, Max: high}
		heading, names := kind&0x80 != 0, strings.Fields(text)
		names = names[:min(len(names), 9)]
		switch kind % 5 {
		case 0:
			l := Lines{ID: text, Title: text, Width: width, Height: low, Heading: heading, X: axis, Y: axis, Gap: high}
			for i, name := range append(names, text) {
				var points []Point
				for n, v := range values[min(i, len(values)):] {
					points = append(points, Point{values[n], v})
				}
				l.Series = append(l.Series, Series{name, points})
			}
			check(t, l)
		case 1:
			check(t, Bars{ID: text, Title: text, Width: width, Height: high, Heading: heading, X: axis, Y: axis, From: low, Step: high, Names: names, Values: values})
		case 2:
			r := Rows{ID: text, Title: text, Width: width, Heading: heading, X: axis, Parts: names}
			for i := range names {
				r.Rows = append(r.Rows, Row{text, values[min(i, len(values)):]})
			}
			check(t, r)
		case 3:
			s := Strip{ID: text, Title: text, Width: width, Heading: heading, Owners: names, PerRow: int(clamp(low, -5, 99)), What: text, None: text}
			for _, v := range values {
				s.Cells = append(s.Cells, int(math.Float64bits(v)%13)-2)
			}
			check(t, s)
		case 4:
			check(t, Wheel{ID: text, Title: text, Width: width, Heading: heading, Now: int(kind) - 128, Counts: values, Max: high, Center: text, Below: text})
		}
	})
}

// box is where a text is.
type box struct {
	text, class              string
	left, right, top, bottom float64
}

// check asserts of a chart what holds for each: it is XML, every number is finite, no two labels
// overlap, all are within the frame, and those that name something are not where the values are drawn.
func check(t *testing.T, chart Chart) {
	t.Helper()
	text := chart.SVG()
	var (
		boxes         []box
		width, height float64
		shift         []float64
		current       *box
		first, last   = math.Inf(1), math.Inf(-1) // lines of the grid
	)
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		switch e := token.(type) {
		case xml.StartElement:
			number, class := map[string]float64{}, ""
			anchor, dy := "start", 0.0
			for _, a := range e.Attr {
				switch a.Name.Local {
				case "class":
					class = a.Value
				case "text-anchor":
					anchor = a.Value
				case "viewBox":
					parts := strings.Fields(a.Value)
					width, height = finite(t, parts[2]), finite(t, parts[3])
				case "transform":
					dy = finite(t, strings.TrimSuffix(strings.TrimPrefix(a.Value, "translate(0 "), ")"))
				case "d":
					for _, n := range strings.FieldsFunc(a.Value, func(r rune) bool { return strings.ContainsRune("MLAZh ", r) }) {
						finite(t, n)
					}
				case "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height":
					number[a.Name.Local] = finite(t, a.Value)
				}
			}
			switch e.Name.Local {
			case "g":
				shift = append(shift, dy)
			case "line":
				if class == "g" || class == "a" {
					y := number["y1"] + sum(shift)
					first, last = min(first, y), max(last, y)
				}
			case "text":
				b := box{class: class, left: number["x"], top: number["y"] + sum(shift)}
				boxes = append(boxes, b)
				current = &boxes[len(boxes)-1]
				current.text = anchor
			}
		case xml.CharData:
			if current != nil {
				current.place(string(e))
			}
		case xml.EndElement:
			switch e.Name.Local {
			case "g":
				shift = shift[:len(shift)-1]
			case "text":
				current = nil
			}
		}
	}
	for i, b := range boxes {
		if b.left < -0.5 || b.right > width+0.5 || b.top < -0.5 || b.bottom > height+0.5 {
			t.Errorf("%+v is outside of %v by %v", b, width, height)
		}
		if _, isPlot := chart.(Lines); isPlot && b.class == "n" && b.text != noData && b.bottom > first && b.top < last {
			t.Errorf("%+v is in the plot, which is from %v to %v", b, first, last)
		}
		for _, other := range boxes[:i] {
			if b.left < other.right-0.5 && other.left < b.right-0.5 && b.top < other.bottom-0.5 && other.top < b.bottom-0.5 {
				t.Errorf("%+v is over %+v", b, other)
			}
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// place computes where a text is, from its anchor (in text), its base line (in top), and its class.
func (b *box) place(text string) {
	size := map[string]float64{"h": 14, "big": 24}[b.class]
	if size == 0 {
		size = fontSize
	}
	x, y, width := b.left, b.top, textWidth(text)*size/fontSize
	switch b.text {
	case "middle":
		x -= width / 2
	case "end":
		x -= width
	}
	*b = box{text: text, class: b.class, left: x, right: x + width, top: y - 0.75*size, bottom: y + 0.2*size}
}

func finite(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		t.Errorf("%q is not a number that can be drawn", text)
	}
	return v
}

func sum(values []float64) (s float64) {
	for _, v := range values {
		s += v
	}
	return s
}

// A chart that is drawn again and again keeps its axis, and goes into HTML as it is.
func ExampleLines() {
	var steady Steady // kept from drawing to drawing
	var lines Lines
	for _, p50 := range []float64{0.0004, 0.0121, 0.0004} {
		lines = Lines{
			ID: "lateness", Title: "Lateness of the last minutes", Gap: 2, // seconds
			X:      Axis{Unit: Relative, Min: -300},
			Y:      steady.Fit(Axis{Label: "after fire_at", Unit: Duration, Log: true}, p50, p50),
			Series: []Series{{Name: "p50", Points: []Point{{-1, p50}, {0, p50}}}},
		}
	}
	fmt.Println(Duration.Format(lines.Y.Min), "to", Duration.Format(lines.Y.Max))
	fmt.Println(strings.HasPrefix(lines.SVG(), `<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 320 `))
	// Output:
	// 100 µs to 100 ms
	// true
}

func ExampleStrip() {
	fmt.Println(Letter(0), Letter(25), Letter(26))
	fmt.Println(Strip{Owners: []string{"a", "b"}, Cells: []int{0, 0, 1, 0, -1}}.summary())
	// Output:
	// A Z AA
	// a: 3 (0–1, 3). b: 1 (2). no owner: 1 (4).
}

func ExampleUnit_Format() {
	for _, v := range []float64{0, 0.00025, 0.0015, 90} {
		fmt.Println(Duration.Format(v), "|", Relative.Format(-v))
	}
	fmt.Println(Count.Format(2500), Count.Format(25_000), Count.Format(1_234_567), Share.Format(0.125))
	// Output:
	// 0 | now
	// 250 µs | −250 µs
	// 1.5 ms | −1.5 ms
	// 1.5 min | −1.5 min
	// 2,500 25k 1.23M 12.5 %
}

// TestClasses: so many series have different colours and dashes that nobody draws more.
func TestClasses(t *testing.T) {
	seen := map[string]int{}
	for i := range 30 {
		seen[classes(i)]++
	}
	if n := slices.Max(slices.Collect(maps.Values(seen))); n > 1 {
		t.Errorf("two of 30 series look the same: %v", seen)
	}
}
