package chart

import "math"

// samples are one of each chart, as the page and the report have them, and some with nothing in
// them or with hostile names.
func samples() map[string]Chart {
	wave := func(n int, middle, swing float64) (points []Point) {
		for i := range n {
			y := middle * math.Pow(swing, math.Sin(float64(i)/7)+math.Sin(float64(i*i)))
			if i >= 20 && i < 25 {
				y = math.NaN()
			}
			points = append(points, Point{float64(i - n + 1), y})
		}
		return points
	}
	ago := Axis{Unit: Relative, Min: -60}
	future := make([]float64, 60)
	for i := range future {
		future[i] = float64((i * i * 7) % 97)
	}
	future[20], future[21] = 0, math.NaN()
	cells := make([]int, 64)
	for i := range cells {
		cells[i] = i/13 - i/60*9
	}
	hostile := "</text><script>alert(1)</script>\x00\xff\u202e&\"'"
	return map[string]Chart{
		"lateness": Lines{
			ID: "lateness", Title: "Lateness", X: ago, Y: Axis{Label: "after fire_at", Unit: Duration, Log: true}, Gap: 2,
			Series: []Series{{"p50", wave(61, 0.0004, 1.2)}, {"p99", wave(61, 0.002, 1.5)}, {"max", wave(61, 0.02, 3)}},
		},
		"published": Lines{ID: "published", Title: "Published", X: ago, Y: Axis{Label: "jobs / s"}, Series: []Series{{"all instances", wave(61, 2500, 1.1)}}},
		"minute":    Bars{ID: "minute", Title: "The next minute", X: Axis{Unit: Relative}, Y: Axis{Label: "jobs due"}, Values: future},
		"sizes": Bars{
			ID: "sizes", Title: "Jobs of a claim", Heading: true, Y: Axis{Label: "claims"}, X: Axis{Label: "jobs"},
			Names: []string{"1", "2", "3–4", "5–8", "9–16", "17–32", "33–64", "65–128", "129–256", "257–512"}, Values: []float64{7, 20, 120, 400, 80, 12, 0, 3, 1, 1},
		},
		"cpu": Rows{
			ID: "cpu", Title: "CPU time", X: Axis{Label: "µs a job"}, Parts: []string{"subscriber", "postgres", "mosquitto", "reactor"},
			Rows: []Row{{"ceiling", []float64{9.2, 6.5, 15.3, 4.7}}, {"reactor --stage=off --with-a-long-name", []float64{9.9, 8.3, 15.9, 4.3}}},
		},
		"shards":      Strip{ID: "shards", Title: "Shards by owner", Owners: []string{"reactor-1", "reactor-2", "a-much-longer-name-of-an-instance.example.com", "d", "e"}, Cells: cells},
		"wheel":       Wheel{ID: "wheel", Title: "The next minute", Now: 47, Counts: future, Below: "due in memory"},
		"empty lines": Lines{ID: "none", Title: "Nothing", X: ago, Y: Axis{Unit: Duration, Log: true}},
		"empty bars":  Bars{}, "empty rows": Rows{}, "empty strip": Strip{}, "empty wheel": Wheel{},
		"hostile lines": Lines{ID: hostile, Title: hostile, Heading: true, X: Axis{Label: hostile}, Y: Axis{Label: hostile}, Series: []Series{{hostile, []Point{{1, math.Inf(1)}, {math.NaN(), 2}, {math.MaxFloat64, math.MaxFloat64}, {0, -5}}}}},
		"hostile strip": Strip{ID: hostile, Title: hostile, Owners: []string{hostile, hostile}, Cells: []int{0, 1, -5, 99}, What: hostile},
		"hostile rows":  Rows{Title: hostile, Desc: hostile, Parts: []string{hostile, hostile}, Rows: []Row{{hostile, []float64{1, math.Inf(1), 3}}}},
	}
}
