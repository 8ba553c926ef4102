package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/reactor/driver"
)

// marks show the verdict of a finding.
var marks = map[driver.Verdict]string{driver.Fine: "✓", driver.Warning: "!", driver.Problem: "✗", driver.Unknown: "?"}

// findingJSON is a finding in JSON.
type findingJSON struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	What    string `json:"what"`
	Remedy  string `json:"remedy,omitempty"`
}

// report prints findings. Its error says how many problems there are, and makes the exit code 1.
func report(out cli.Output, findings []driver.Finding, asJSON bool) error {
	for i, f := range findings {
		findings[i].What, findings[i].Remedy = cli.InFlagTerms(f.What), cli.InFlagTerms(f.Remedy)
	}
	count := map[driver.Verdict]int{}
	for _, f := range findings {
		count[f.Verdict]++
	}
	var err error
	if asJSON {
		err = writeJSON(out.Stdout, findingsJSON(findings, count), true)
	} else {
		_, err = fmt.Fprint(out.Stdout, findingsText(findings))
	}
	switch {
	case err != nil:
		return err
	case count[driver.Problem] == 1:
		return errors.New("there is a problem")
	case count[driver.Problem] > 1:
		return fmt.Errorf("there are %d problems", count[driver.Problem])
	}
	return nil
}

// findingsText has a line for each finding, and one more for each remedy.
func findingsText(findings []driver.Finding) string {
	width := 0
	for _, f := range findings {
		width = max(width, cells(f.Check))
	}
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%s %s%s  %s\n", marks[f.Verdict], f.Check, strings.Repeat(" ", width-cells(f.Check)), cli.Visible(f.What))
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%s→ %s\n", strings.Repeat(" ", width+4), cli.Visible(f.Remedy))
		}
	}
	return b.String()
}

func findingsJSON(findings []driver.Finding, count map[driver.Verdict]int) any {
	answer := struct {
		Verdict  string        `json:"verdict"` // the worst: problem, warning or ok
		Findings []findingJSON `json:"findings"`
	}{driver.Fine.String(), []findingJSON{}}
	for _, worse := range []driver.Verdict{driver.Problem, driver.Warning} {
		if count[worse] > 0 {
			answer.Verdict = worse.String()
			break
		}
	}
	for _, f := range findings {
		answer.Findings = append(answer.Findings, findingJSON{f.Check, f.Verdict.String(), f.What, f.Remedy})
	}
	return answer
}
