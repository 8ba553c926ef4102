package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/job-publisher/reactor/internal/chart"
)

//go:embed report.html
var reportText string

// figure is a chart of the report, with what it shows in words.
type figure struct {
	Title, Text string
	SVG         template.HTML
}

// Report writes a page of HTML with the charts and the tables. It is one file, and loads
// nothing.
func (r Result) Report(out io.Writer) error {
	page := template.Must(template.New("report").Parse(reportText))
	tables := r.details()
	if r.Reactor.Jobs > 0 {
		tables = append([]sheet{measuresSheet(r.all())}, tables...)
	}
	type htmlTable struct {
		Head  []string
		Rows  [][]string
		Notes []string
	}
	var shown []htmlTable
	for _, s := range append(tables, r.usageSheet()) {
		shown = append(shown, htmlTable{s.head, s.rows, s.notes})
	}
	verdict, good := r.verdict()
	err := page.Execute(out, map[string]any{
		"Result": r, "At": r.At.UTC().Format("2 January 2006, 15:04 UTC"), "Load": r.loadText(), "Machine": r.machineText(), "Flags": strings.Join(r.InstanceFlags, " "),
		"Verdict": verdict, "Good": good, "Comparison": r.comparison(), "Figures": r.figures(), "Tables": shown,
		"Style": template.CSS(chart.Stylesheet), // ours, a constant
	})
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// verdict says whether every job of all measurements arrived once and not early.
func (r Result) verdict() (text string, good bool) {
	var lost, duplicated, early int
	for _, m := range r.all() {
		lost, duplicated, early = lost+m.Lost, duplicated+m.Duplicated, early+m.Early
		if m.Beside != nil {
			lost, duplicated, early = lost+m.Beside.Lost, duplicated+m.Beside.Duplicated, early+m.Beside.Early
		}
	}
	switch {
	case lost+duplicated+early > 0:
		return fmt.Sprintf("%d lost, %d duplicated, %d early, in all measurements together.", lost, duplicated, early), false
	case r.Reactor.Jobs == 0:
		return "There were no jobs: this is what idle instances use.", true
	}
	return "Every job arrived once, and none early.", true
}

// figures are the charts. The package chart has escaped the texts in them.
func (r Result) figures() (list []figure) {
	add := func(title, text string, c chart.Chart) {
		list = append(list, figure{title, text, template.HTML(c.SVG())})
	}
	if r.Reactor.Jobs > 0 {
		add("Lateness", "The share of the messages, from left to right, that were at most so late when the subscriber had them.", r.latenessChart())
		if c, ok := r.ratioChart(); ok {
			add(c.Title, "1 is as soon as a timer and one packet for each job can be.", c)
		}
		add("Throughput", "Messages that reached the subscriber.", r.throughputChart())
	}
	if c, ok := r.slicesChart(); ok {
		add(c.Title, "Whether jobs become later and later. Each point is a tenth of the time.", c)
	}
	add("CPU time", "Of all processes of a kind together. The publisher is reactor, or what it is compared with.", r.cpuChart())
	for _, c := range r.claimCharts() {
		add(c.Title, "How many jobs each claim got, of those that got any.", c)
	}
	return list
}
