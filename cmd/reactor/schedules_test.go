package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestSchedulesCommand: a schedule through its whole life, with an instance that publishes.
func TestSchedulesCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, broker := testkit.NewDatabase(t), broker(t)
	conn := connect(t, ctx, database)
	run := func(want int, args ...string) string {
		t.Helper()
		// Settings of instances and of nobody: none of them concerns a schedule.
		env := []string{"REACTOR_RETAIN=168h", "REACTOR_MAX_LATENESS=1ms", "REACTOR_NAME=other", "REACTOR_JSON=true", "REACTOR_ZONE=Asia/Tokyo", "REACTOR_PAUSED=true", "REACTOR_TOPIC=x", "REACTOR_CRON=x", "REACTOR_OCCURRENCES=1", "REACTOR_CATCH_UP=x"}
		code, output := call(t, env, append([]string{"schedules"}, append(args, "--database-url", database)...)...)
		if code != want {
			t.Fatalf("schedules %v ended with %d:\n%s", args, code, output)
		}
		if want != 0 && len(lines(output)) != 1 {
			t.Errorf("schedules %v says more than a line: %s", args, output)
		}
		return output
	}
	said := func(output string, want ...string) {
		t.Helper()
		for _, text := range want {
			if !strings.Contains(output, text) {
				t.Errorf("no %q in\n%s", text, output)
			}
		}
	}
	sub := subscribe(t, ctx, broker, "tick/#")
	said(run(0, "add", "tick", "--cron", "* * * * * *", "--zone", "Europe/Berlin", "--topic", "tick/{{schedule}}", "--payload", "{{fire_at_unix}}", "--max-lateness", "1m"), "added tick")
	said(run(0, "add", "hourly", "--every", "1h", "--topic", "tick/hourly", "--header", "a=b;c", "--header", "c=d=e", "--qos", "1", "--start", "2026-01-01T00:00:00Z", "--end", "2099-01-01T00:00:00+01:00", "--jitter", "10m", "--paused", "--json"), `{"outcome":"added","schedule":"hourly"}`)
	p := start(t, database, broker)
	if err := sub.WaitDistinct(ctx, 3); err != nil {
		t.Fatal(err)
	}
	list := run(0)
	said(list, "NAME", "RECURS", "hourly  every 1h0m0s", "paused", "* * * * * *", "tick/{{schedule}}", "active")
	if n := len(lines(list)); n != 3 {
		t.Errorf("the list has %d lines:\n%s", n, list)
	}
	var view map[string]any
	if err := json.Unmarshal([]byte(lines(run(0, "list", "--json"))[0]), &view); err != nil || view["name"] != "hourly" || view["every"] != "1h0m0s" || view["qos"] != 1.0 || view["paused"] != true {
		t.Errorf("in JSON: %v, %v", view, err)
	}
	said(run(0, "show", "hourly"), "every 1h0m0s", "a=b;c\n", "c=d=e", "10m0s", "paused", "2098-12-31T23:00:00Z", "catch up", "once (window 24h0m0s)")
	said(run(0, "show", "tick", "--json"), `"zone":"Europe/Berlin"`, `"max_lateness":"1m0s"`)
	next := lines(run(0, "next", "hourly", "-n", "3"))
	if len(next) != 3 || !strings.Contains(next[0], ":00:00Z  20") {
		t.Errorf("the next with a jitter: %q", next)
	}
	var one struct {
		Occurrence time.Time `json:"occurrence_at"`
		Fire       time.Time `json:"fire_at"`
	}
	if err := json.Unmarshal([]byte(lines(run(0, "next", "tick", "--occurrences", "1", "--json"))[0]), &one); err != nil || !one.Occurrence.Equal(one.Fire) || one.Occurrence.IsZero() {
		t.Errorf("the next in JSON: %+v, %v", one, err)
	}
	names := func(args ...string) string {
		t.Helper()
		var list []string
		for _, line := range lines(run(0, append([]string{"list", "--json"}, args...)...)) {
			var s struct{ Name, State string }
			if json.Unmarshal([]byte(line), &s) == nil {
				list = append(list, s.Name+" "+s.State)
			} else if line != "" {
				list = append(list, line)
			}
		}
		return strings.Join(list, ", ")
	}
	for args, want := range map[string]string{
		"": "hourly paused, tick active", "--state paused,problem": "hourly paused", "--state active": "tick active", "--state ended": "", "--name hour": "hourly paused", "--topic tick/h": "hourly paused",
		"--until +1h": "tick active", "--from +1h": "", "--from -1m": "tick active", "--limit 1": "hourly paused, there are more: add --after 'hourly'", "--limit 1 --after hourly": "tick active", "--after tick": "",
	} {
		if got := names(strings.Fields(args)...); got != want {
			t.Errorf("list %s: %q, want %q", args, got, want)
		}
	}
	said(run(2, "list", "--state", "lost"), "no such state")
	said(run(0, "list", "--name", "none"), "no schedules")
	said(run(0, "pause", "tick"), "paused tick")
	var left int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM jobs WHERE NOT processed").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d jobs are left after the pause, %v", left, err)
	}
	said(run(0, "run", "hourly", "--json"), `"job_id":`)
	said(run(0, "backfill", "hourly", "--from", "-90m", "--to", "-30m", "--json"), `"jobs":1`)
	said(run(2, "backfill", "hourly", "--from", "now", "--to", "-1h"), "--from must be before --to")
	said(run(2, "backfill", "hourly", "--from", "yesterday", "--to", "now"), `--from: "yesterday" is no time`)
	said(run(1, "backfill", "hourly", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"), "make 24 jobs of hourly that are due now", "--yes")
	said(run(0, "backfill", "hourly", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z", "--yes"), "24 jobs of hourly are due now")
	said(run(0, "backfill", "hourly", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z", "--json"), `"jobs":0`)
	got := func() (n int) {
		for _, m := range sub.Received() {
			if m.Topic == "tick/hourly" {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); got() < 26; {
		if err := sub.WaitMessages(ctx, sub.Progress().Messages+1); err != nil || time.Now().After(deadline) {
			t.Fatalf("%d of 26 messages of the run and the backfill, %v", got(), err)
		}
	}
	said(run(0, "resume", "tick"), "resumed tick")
	said(run(0, "delete", "tick"), "deleted tick")
	said(run(1, "delete", "tick"), "no such schedule", "reactor schedules list")
	said(run(0, "add", "soon", "--every", "1h", "--topic", "t", "--start", "+1h", "--end", "+7d", "--paused"), "added soon")
	var start, end time.Duration
	if err := conn.QueryRow(ctx, "SELECT start_at - created_at, end_at - start_at FROM reactor.schedules WHERE name = 'soon'").Scan(&start, &end); err != nil || start > time.Hour || start < 59*time.Minute || end != 167*time.Hour {
		t.Errorf("it begins after %v and ends %v after that, %v", start, end, err)
	}
	if usage := lines(run(0, "add", "--help"))[0]; strings.Contains(usage, "--cron") || strings.Contains(usage, "--every") || !strings.Contains(usage, "--topic") {
		t.Errorf("only --topic is required always: %s", usage)
	}
	for _, args := range [][]string{
		{"add", "x", "--topic", "t"},
		{"add", "x", "--cron", "* * * * *", "--every", "1h", "--topic", "t"},
		{"add", "x", "--every", "1h"},
		{"add", "x", "--every", "1h", "--topic", "t", "--start", "tomorrow"},
		{"add", "x", "--every", "1h", "--topic", "t", "--catch-up", "never"},
		{"next", "hourly", "-n", "0"},
		{"backfill", "hourly", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"},
	} {
		run(2, args...)
	}
	for args, want := range map[string]string{
		"--every 0s":                          "--every is 0s, must be 1s to 8784h, in whole seconds",
		"--every -1s":                         "--every is -1s, must be",
		"--every 1.5s":                        "--every is 1.5s, must be",
		"--every 1d":                          `"1d" is no duration`,
		"--every 1h --jitter -1s":             "--jitter is -1s, must be 0s to 24h",
		"--every 1h --jitter 25h":             "--jitter is 25h0m0s",
		"--every 1h --max-lateness 1ms":       "--max-lateness is 1ms",
		"--every 1h --catch-up-window 0s":     "--catch-up-window is 0s",
		"--every 1h --qos 3":                  "--qos is 3, must be 0, 1 or 2",
		"--every 1h --qos 0 --ordering-key k": "must be 1 or 2 with --ordering-key",
		"--every 1h --zone=":                  "--zone: the value is empty",
		"--every 1h --start=":                 `--start: "" is no time`,
		"--every 1h --end=1d":                 `--end: "1d" is no time`,
		"--every 1h --end=+1":                 `--end: "+1" is no distance from now`,
		"--every 1h --start=+2h --end=+1h":    "--start must be before --end",
		"--end=+1h":                           "say when it recurs: --cron or --every",
		"--every 1h --ordering-key=":          "--ordering-key: the value is empty",
		"--cron= ":                            "--cron: the value is empty",
		"--every 1h --start 2030-01-02T00:00:00Z --end 2030-01-01T00:00:00Z": "--start must be before --end",
	} {
		said(run(2, append([]string{"add", "x", "--topic", "t"}, strings.Fields(args)...)...), want)
	}
	said(run(2, "next", "hourly", "-n", "-3"), "--occurrences is -3, must be 1 to 100000")
	said(run(1, "add", "x", "--every", "1h", "--zone", "Nowhere", "--topic", "t"), `the zone "Nowhere" is not known`)
	said(run(1, "add", "x", "--cron", "nonsense", "--topic", "t"), "is invalid")
	said(run(1, "add", "hourly", "--every", "1h", "--topic", "t"), "already")
	said(run(1, "add", "x", "--every", "1h", "--topic", "a/#"), "the schedule is refused: topic must not contain the wildcards + or #")
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
