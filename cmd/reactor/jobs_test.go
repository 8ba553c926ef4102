package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobsCommandOn returns what runs `reactor jobs` on a database. It checks the exit code, and that no control
// character reaches the terminal.
func jobsCommandOn(t *testing.T, database string, env ...string) func(want int, args ...string) string {
	return func(want int, args ...string) string {
		t.Helper()
		code, output := call(t, env, append([]string{"jobs"}, append(args, "--database-url", database)...)...)
		if code != want {
			t.Fatalf("jobs %v ended with %d, want %d:\n%s", args, code, want, output)
		}
		if i := strings.IndexFunc(output, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Fatalf("jobs %v writes a control character: %q", args, output[i:min(len(output), i+20)])
		}
		return output
	}
}

// TestJobsCommand: an operator finds jobs, looks at one, and changes them.
func TestJobsCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	conn := connect(t, ctx, database)
	run := jobsCommandOn(t, database, "REACTOR_TOPIC=nothing", "REACTOR_ALL=true", "REACTOR_YES=true", "REACTOR_KEY=k7", "REACTOR_OLDER_THAN=1m", "REACTOR_AFTER=x", "REACTOR_AT=now", "REACTOR_JSON=true", "REACTOR_BUSY=9")
	contains := func(output string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(output, want) {
				t.Errorf("the output lacks %q:\n%s", want, output)
			}
		}
	}
	exec(t, ctx, conn, `INSERT INTO jobs (topic, payload, fire_at, key) SELECT 'job/' || n, U&'\001B[31mred\009B', now() + n * interval '1 hour', 'k' || n FROM generate_series(1, 120) n`)
	exec(t, ctx, conn, `INSERT INTO jobs (id, topic, fire_at, processed, processed_at, claim) SELECT n, 'old', now() - interval '2 days', true, now() - interval '2 days', gen_random_uuid() FROM generate_series(1001, 1030) n`)
	exec(t, ctx, conn, `INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 5, 135, U&'no\001B]0;title\0007', claim FROM jobs WHERE id = 1030`)

	contains(run(0), "ID", "STATE", "waiting", "there are more: add --after=")
	seen, after := 0, []string(nil)
	for pages := 0; ; pages++ {
		var page struct {
			Jobs []struct{ ID int64 }
			Next string
		}
		if err := json.Unmarshal([]byte(run(0, append([]string{"list", "--state", "waiting", "--limit", "50", "--json"}, after...)...)), &page); err != nil {
			t.Fatal(err)
		}
		if seen += len(page.Jobs); page.Next == "" {
			break
		}
		after = []string{"--after", page.Next}
	}
	if seen != 120 {
		t.Errorf("%d jobs on all pages, want 120", seen)
	}
	contains(run(0, "list", "--state=failed"), "1030", "failed", `no\x1b]0;title\a`)
	contains(run(0, "list", "--state", "failed", "--json"), `"code_text": "0x87, not authorized"`)
	contains(run(0, "list", "--state", "waiting", "--until=+150m"), "job/1 ", "job/2 ")
	contains(run(0, "list", "--topic", "none"), "no jobs")
	contains(run(2, "list", "--state", "lost"), "no such state")
	contains(run(2, "list", "--after", "here"), "--after here is no place in a list")
	contains(run(2, "list", "--limit", "0"), "must be 1 to 10000")
	contains(run(2, "list", "--from", "yesterday"), `--from: "yesterday" is no time`)
	contains(run(2, "list", "--until", "+5"), `--until: "+5" is no distance from now`)

	contains(run(0, "show", "7"), "waiting", `\x1b[31mred\u009b`, "10 bytes, text", "history", "due")
	contains(run(0, "show", "1030"), "0x87, not authorized", "failed after 5 attempts", "claimed")
	contains(run(0, "show", "--key", "k9", "--json"), `"id": 9`, `"payload": "\u001b[31mred\u009b"`)
	contains(run(1, "show", "4711"), "there is no such job")
	contains(run(2, "show"), "give the id")

	contains(run(1, "cancel", "1", "2", "4711"), "1: cancelled", "4711: not found", "cancelled: 2; not found: 1", "1 of 3 jobs were not changed")
	contains(run(0, "cancel", "--key", "k3"), "key k3: cancelled")
	contains(run(2, "cancel"), "say which jobs")
	contains(run(2, "cancel", "4", "--all"), "not both")
	contains(run(1, "cancel", "--topic", "job/1"), "cancel 31 jobs", "--yes")
	contains(run(0, "cancel", "--topic", "job/1", "--yes"), "cancelled: 31")
	contains(run(2, "retry", "--state", "waiting", "--yes"), "retry changes jobs that are failed")
	contains(run(0, "reschedule", "--topic", "job/20", "--at", "2100-01-01T00:00:00Z", "--yes", "--json"), `{"id":20,"answer":"rescheduled","done":true}`)
	contains(run(0, "list", "--from", "2099-12-31T00:00:00Z"), "2100-01-01T00:00:00.000Z")
	contains(run(0, "fire", "20"), "20: due now")
	contains(run(0, "retry", "--state", "failed", "--yes"), "to be tried again: 1")
	contains(run(0, "retry", "--all", "--yes"), "no job matches")

	contains(run(2, "list", "--topic="), "--topic: the value is empty")
	contains(run(2, "list", "--after="), "--after: the value is empty")
	contains(run(2, "show", "--key="), "--key: the value is empty")
	contains(run(2, "list", "--from", "+1h", "--until", "-1h"), "no job matches")
	contains(run(0, "list", "--from", "-1h", "--until", "+61m", "--state", "waiting", "--topic", "job/2"), "job/20 ")
	contains(run(2, "cancel", "--schedule", "0", "--yes"), `--schedule "0": there is no such schedule`)
	contains(run(1, "show", "-5"), "there is no such job")
	contains(run(1, "cancel", "-5", "--json"), `{"id":-5,"answer":"not found","done":false}`)
	contains(run(0, "purge", "--older-than", "72h"), "no job has ended that long ago", "nothing to delete")

	contains(run(1, "purge", "--older-than", "24h"), "delete the rows of 29 jobs", "--yes")
	contains(run(0, "purge", "--older-than", "24h", "--yes"), "deleted the rows of 29 jobs")
	contains(run(2, "purge", "--older-than", "1s"), "a minute at least")
	var left int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM jobs").Scan(&left); err != nil || left != 120-2-1-31+1 {
		t.Errorf("%d jobs are left, %v", left, err)
	}
}

// TestNoEmptyFilter: an empty value selects nothing, and not everything.
func TestNoEmptyFilter(t *testing.T) {
	for _, command := range []string{"list", "cancel --yes", "reschedule --yes --at now", "fire --yes", "retry --yes"} {
		for _, flag := range []string{"--topic", "--key", "--state", "--from", "--until", "--schedule"} {
			for _, args := range [][]string{{flag + "="}, {flag, ""}} {
				_, _, _, err := settings(t, nil, append(append([]string{"jobs"}, strings.Fields(command+" --database-url x")...), args...)...)
				if err == nil || !strings.HasPrefix(err.Error(), flag+": ") {
					t.Errorf("jobs %s %q: %v", command, args, err)
				}
			}
		}
	}
	for _, args := range []string{"--state waiting,", "--state ,failed", "--after=", "--schedule="} {
		if _, _, _, err := settings(t, nil, append([]string{"jobs", "list", "--database-url", "x"}, strings.Fields(args)...)...); err == nil {
			t.Errorf("jobs list %s is accepted", args)
		}
	}
	c, _, _, err := settings(t, nil, "jobs", "cancel", "--database-url", "x", "--state", "waiting, retrying", "--state", "blocked")
	if err != nil || len(c.Jobs.Cancel.State) != 3 {
		t.Errorf("states %v, %v", c.Jobs.Cancel.State, err)
	}
}

// TestJobsOfSchedule: a schedule goes by its name, in what is asked for and in what is printed; one that was deleted by
// the id that its jobs have.
func TestJobsOfSchedule(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	conn := connect(t, ctx, database)
	run := jobsCommandOn(t, database)
	// The second is named like the id of the first, and the third has gone.
	exec(t, ctx, conn, `INSERT INTO reactor.schedules (name, every, topic, paused) VALUES ('daily report', '1 day', 't', true), ('1', '1 day', 't', true);
		INSERT INTO jobs (topic, fire_at, schedule_id) SELECT 'of/' || n, now() + interval '1 hour', n FROM generate_series(1, 3) n;
		INSERT INTO jobs (topic, fire_at) VALUES ('of/none', now() + interval '1 hour')`)
	for name, want := range map[string]string{"daily report": "of/1", "1": "of/2", "2": "of/2", "3": "of/3"} {
		var page struct {
			Jobs []struct {
				Topic, Schedule string
				ID              int64 `json:"schedule_id"`
			}
		}
		if err := json.Unmarshal([]byte(run(0, "list", "--schedule", name, "--json")), &page); err != nil || len(page.Jobs) != 1 || page.Jobs[0].Topic != want {
			t.Errorf("--schedule %s: %+v, %v, want %s", name, page, err, want)
		} else if names := []string{"", "daily report", "1", ""}; page.Jobs[0].Schedule != names[page.Jobs[0].ID] {
			t.Errorf("--schedule %s: %+v", name, page.Jobs[0])
		}
	}
	for args, want := range map[string]string{"1": "daily report (id 1)", "2": "1 (id 2)", "3": "3 (which was deleted)", "1 --json": `"schedule": "daily report"`} {
		if output := run(0, append([]string{"show"}, strings.Fields(args)...)...); !strings.Contains(output, want) {
			t.Errorf("show %s lacks %q:\n%s", args, want, output)
		}
	}
	for _, name := range []string{"weekly", "-1", "0"} {
		if output := run(2, "fire", "--schedule="+name, "--yes"); !strings.Contains(output, fmt.Sprintf("--schedule %q: there is no such schedule", name)) || !strings.Contains(output, "reactor schedules list") {
			t.Errorf("--schedule %s: %s", name, output)
		}
	}
	if output := run(0, "cancel", "--schedule", "daily report", "--yes"); !strings.Contains(output, "cancelled: 1") {
		t.Error(output)
	}
	if output := run(0, "fire", "--schedule", "3", "--yes"); !strings.Contains(output, "due now: 1") {
		t.Error(output)
	}
}

// TestMissingRights: what a command asks for is what this command needs.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	conn := connect(t, ctx, database)
	role := fmt.Sprintf("operator_%d", time.Now().UnixNano())
	exec(t, ctx, conn, "CREATE ROLE "+role+" LOGIN; GRANT USAGE ON SCHEMA reactor TO "+role)
	t.Cleanup(func() { exec(t, context.Background(), conn, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("user", role)
	u.RawQuery = q.Encode()
	for args, want := range map[string]string{
		"fire 1": "GRANT SELECT, UPDATE ON public.jobs", "fire --all --yes": "GRANT SELECT, UPDATE ON public.jobs", "reschedule 1 --at now": "GRANT SELECT, UPDATE ON public.jobs", "retry 1": "GRANT SELECT, UPDATE ON public.jobs",
		"cancel 1": "GRANT SELECT, UPDATE, DELETE ON public.jobs", "cancel --schedule x": "reactor.schedules", "list --schedule x": "reactor.failed_jobs, reactor.schedules, public.jobs TO", "show 1": "reactor.instances",
	} {
		code, output := call(t, nil, append(append([]string{"jobs"}, strings.Fields(args)...), "--database-url", u.String())...)
		if code != 1 || !strings.Contains(output, want) || strings.Contains(output, "DELETE") != strings.Contains(args, "cancel") || strings.Contains(output, "USAGE") || strings.Contains(output, "SELECT, SELECT") {
			t.Errorf("%s ended with %d: %s", args, code, output)
		}
	}
}

// TestShowPayload: the payload is written as it is.
func TestShowPayload(t *testing.T) {
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	exec(t, ctx, connect(t, ctx, database), `INSERT INTO jobs (topic, payload_bytes, fire_at) VALUES ('t', '\x00ff1b0a', now())`)
	if code, output := call(t, nil, "jobs", "show", "1", "--payload", "--database-url", database); code != 0 || output != "\x00\xff\x1b\n" {
		t.Errorf("ended with %d: %q", code, output)
	}
	// Elsewhere payload_bytes is a message.
	if code, output := call(t, nil, "jobs", "show", "1", "--json", "--database-url", database); code != 0 || !strings.Contains(output, `"payload_hex": "00ff1b0a"`) || !strings.Contains(output, `"payload_size": 4`) || strings.Contains(output, "payload_bytes") {
		t.Errorf("ended with %d: %s", code, output)
	}
}

// TestRunRetain: an instance publishes what is due, and deletes what has ended long ago.
func TestRunRetain(t *testing.T) {
	ctx := testContext(t)
	database, broker := testkit.NewDatabase(t), broker(t)
	conn := connect(t, ctx, database)
	if code, output := call(t, nil, "run", "--database-url", database, "--mqtt-url", broker, "--retain", "1s"); code != 2 || !strings.Contains(output, "--retain is 1s, must be 1m0s at least") {
		t.Errorf("ended with %d: %s", code, output)
	}
	exec(t, ctx, conn, "INSERT INTO jobs (topic, fire_at, processed) SELECT 'old', now() - interval '1 day', true FROM generate_series(1, 5000)")
	sub := subscribe(t, ctx, broker, "retain/#")
	p := start(t, database, broker, "--retain", "1h")
	exec(t, ctx, conn, "INSERT INTO jobs (topic, fire_at) SELECT 'retain/' || n, now() + n * interval '2 milliseconds' FROM generate_series(1, 500) n")
	if err := sub.WaitDistinct(ctx, 500); err != nil {
		t.Fatal(err)
	}
	for left := 0; left != 500; {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM jobs").Scan(&left); err != nil {
			t.Fatal(err)
		}
	}
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"a/b ä 日本": "a/b ä 日本", "\x1b[2J": `\x1b[2J`, "\u009b": `\u009b`, "\u202e": `\u202e`, "a\tb\r\n": `a\tb\r\n`, "\xff\xfe": `\xff\xfe`, "\U000e0041": `\U000e0041`, "\u2028": `\u2028`,
	} {
		if got := cli.Visible(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		var b strings.Builder
		if err := writeJSON(&b, text, false); err != nil || cli.Visible(strings.TrimSuffix(b.String(), "\n")) != strings.TrimSuffix(b.String(), "\n") {
			t.Errorf("%q in JSON: %q, %v", text, b.String(), err)
		}
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != strings.ToValidUTF8(text, "\ufffd\ufffd") && back != text {
			t.Errorf("%q comes back from JSON as %q, %v", text, back, err)
		}
	}
}

// TestAsk: only yes is a yes, and a signal ends the wait.
func TestAsk(t *testing.T) {
	for answer, yes := range map[string]bool{"y\n": true, "YES \n": true, "y": true, "\n": false, "no\n": false, "": false, "yesterday\n": false} {
		var said strings.Builder
		if err := ask(t.Context(), strings.NewReader(answer), &said, "cancel 3 jobs"); (err == nil) != yes {
			t.Errorf("%q: %v", answer, err)
		}
		if !strings.HasPrefix(said.String(), "cancel 3 jobs? [y/N] ") {
			t.Errorf("asked %q", said.String())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent := make(chan struct{})
	defer close(silent)
	if err := ask(ctx, silence(silent), &strings.Builder{}, "?"); err == nil {
		t.Error("a signal is no yes")
	}
}

// silence is a terminal at which nobody answers.
type silence chan struct{}

func (s silence) Read([]byte) (int, error) {
	<-s
	return 0, fmt.Errorf("closed")
}

func TestJobTime(t *testing.T) {
	const now = driver.DBTime(1_000_000_000_000)
	for text, want := range map[string]driver.DBTime{
		"now": now, "+90s": now + 90_000_000, "-2h": now - 7200_000_000, "+1d": now + 86400_000_000, "-7d": now - 7*86400_000_000,
		"1970-01-02T00:00:00Z": 86400_000_000, "1970-01-01T01:00:00.5+01:00": 500_000,
	} {
		var at jobTime
		if err := at.UnmarshalText([]byte(text)); err != nil || *at.at(now) != want {
			t.Errorf("%q: %+v, %v, want %d", text, at, err, want)
		}
	}
	for _, text := range []string{"", "5m", "+", "+5", "tomorrow", "2030-01-31", "+1000000d", "+x d"} {
		if err := new(jobTime).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for a time", text)
		}
	}
}
