package chart

import (
	"math"
	"regexp"
	"strconv"
	"testing"
)

// rgb is a colour in linear light.
type rgb [3]float64

// theme returns the variables of Light or Dark.
func theme(t *testing.T, variables string) map[string]rgb {
	t.Helper()
	colours := map[string]rgb{}
	for _, m := range regexp.MustCompile(`--(\w+):#(\w{6});`).FindAllStringSubmatch(variables, -1) {
		var c rgb
		for i := range c {
			v, err := strconv.ParseUint(m[2][2*i:2*i+2], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			if c[i] = float64(v) / 255; c[i] <= 0.04045 {
				c[i] /= 12.92
			} else {
				c[i] = math.Pow((c[i]+0.055)/1.055, 2.4)
			}
		}
		colours[m[1]] = c
	}
	if len(colours) != Colours+8 {
		t.Fatalf("%d colours in %s", len(colours), variables)
	}
	return colours
}

// contrast is that of WCAG 2.2.
func contrast(a, b rgb) float64 {
	light := func(c rgb) float64 { return 0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2] + 0.05 }
	return math.Max(light(a), light(b)) / math.Min(light(a), light(b))
}

func TestContrast(t *testing.T) {
	for name, variables := range map[string]string{"light": Light, "dark": Dark} {
		colours := theme(t, variables)
		for _, ground := range []string{"ground", "panel"} {
			for colour, c := range colours {
				if colour == "ground" || colour == "panel" || colour == "grid" {
					continue
				}
				if got := contrast(c, colours[ground]); got < 4.5 {
					t.Errorf("%s: --%s has a contrast of %.2f with --%s, less than 4.5", name, colour, got, ground)
				}
			}
		}
	}
}

// seenBy are what people see, in linear light: all colours, or with protanopia, deuteranopia, tritanopia
// (Machado, Oliveira and Fernandes 2009, severity 1).
var seenBy = map[string][3]rgb{
	"usual":        {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"protanopia":   {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
	"deuteranopia": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
	"tritanopia":   {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
}

func times(m [3]rgb, c rgb) (out rgb) {
	for i, row := range m {
		out[i] = row[0]*c[0] + row[1]*c[1] + row[2]*c[2]
	}
	return out
}

// oklab is a space in which distances are about what people see as differences (Ottosson 2020).
func oklab(c rgb) rgb {
	lms := times([3]rgb{{0.4122214708, 0.5363325363, 0.0514459929}, {0.2119034982, 0.6806995451, 0.1073969566}, {0.0883024619, 0.2817188376, 0.6299787005}}, c)
	for i := range lms {
		lms[i] = math.Cbrt(lms[i])
	}
	return times([3]rgb{{0.2104542553, 0.7936177850, -0.0040720468}, {1.9779984951, -2.4285922050, 0.4505937099}, {0.0259040371, 0.7827717662, -0.8086757660}}, lms)
}

// TestColoursDiffer: no two colours of series look alike. A distance of 0.02 can just be seen when two
// areas touch; lines do not, so five times as much is asked for.
func TestColoursDiffer(t *testing.T) {
	for name, variables := range map[string]string{"light": Light, "dark": Dark} {
		colours := theme(t, variables)
		for eyes, matrix := range seenBy {
			var seen [Colours]rgb
			for i := range seen {
				c := times(matrix, colours["c"+strconv.Itoa(i+1)])
				for n := range c {
					c[n] = clamp(c[n], 0, 1)
				}
				seen[i] = oklab(c)
				for n, other := range seen[:i] {
					d := math.Hypot(math.Hypot(seen[i][0]-other[0], seen[i][1]-other[1]), seen[i][2]-other[2])
					if d < 0.1 {
						t.Errorf("%s, %s: --c%d and --c%d differ by %.3f, less than 0.1", name, eyes, n+1, i+1, d)
					}
				}
			}
		}
	}
}
