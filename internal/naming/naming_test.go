package naming_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/job-publisher/reactor/internal/naming"
)

func named(t *testing.T, schema, table string) naming.Names {
	t.Helper()
	n, err := naming.New(schema, table)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRule: each line of the table in rewrite.go, and what is like it and stays.
func TestRule(t *testing.T) {
	n := named(t, "zq", "app.zt")
	for text, want := range map[string]string{
		"SELECT FROM reactor.lanes l":                              "SELECT FROM zq.lanes l",
		"'reactor.deployment'":                                     "'zq.deployment'",
		"'reactor.' || name":                                       "'zq.' || name",
		"set_config('reactor.locked_lane', x, true)":               "set_config('zq.locked_lane', x, true)",
		"nspname = 'reactor' AND":                                  "nspname = 'zq' AND",
		"hashtextextended('reactor key ' || key, 0::bigint)":       "hashtextextended('zq key ' || key, 0::bigint)",
		"CREATE SCHEMA reactor;":                                   "CREATE SCHEMA zq;",
		"USAGE on schema  reactor to":                              "USAGE on schema  zq to",
		"pg_notify('reactor_jobs', ''); LISTEN reactor_membership": "pg_notify('zq_jobs', ''); LISTEN zq_membership",
		"reactor_jobs_inserted,reactor_jobs_updated":               "zq_jobs_inserted,zq_jobs_updated",
		"slot_name ~ '^reactor_[0-9a-f]{8}_[0-9]+$'":               "slot_name ~ '^zq_[0-9a-f]{8}_[0-9]+$'",
		"format('%I.jobs, %1$I.jobs, %I.jobs_default', home)":      "format('%I.zt, %1$I.zt, %I.zt_default', home)",
		"'the table %.jobs'":                                       "'the table %.zt'",
		"relname = 'jobs' OR 'jobs'::regclass":                     "relname = 'zt' OR 'zt'::regclass",
		"CREATE TABLE IF NOT EXISTS jobs (id bigint)":              "CREATE TABLE IF NOT EXISTS zt (id bigint)",
		"CREATE INDEX IF NOT EXISTS jobs_key ON jobs (key)":        "CREATE INDEX IF NOT EXISTS zt_key ON zt (key)",
		"AFTER INSERT ON jobs REFERENCING":                         "AFTER INSERT ON zt REFERENCING",
		"'jobs_p' || to_char(lower, 'YYYYMMDD')":                   "'zt_p' || to_char(lower, 'YYYYMMDD')",

		"run `reactor migrate up`":                                    "run `reactor migrate up`",
		"it is not reactor''s, as reactor. And":                       "it is not reactor''s, as reactor. And",
		"application_name LIKE 'x-reactor-%'":                         "application_name LIKE 'x-reactor-%'",
		"my_reactor.lanes, reactors.lanes, xreactor_jobs":             "my_reactor.lanes, reactors.lanes, xreactor_jobs",
		"SELECT jobs_schema, jobs_table":                              "SELECT jobs_schema, jobs_table",
		"'UPDATE ' || jobs || ' SET'":                                 "'UPDATE ' || jobs || ' SET'",
		"    jobs text := 1":                                          "    jobs text := 1",
		"reactor.failed_jobs, reactor.insert_jobs(x)":                 "zq.failed_jobs, zq.insert_jobs(x)",
		`SELECT FROM ONLY "reactor"."jobs", "a reactor.b", reactor.c`: `SELECT FROM ONLY "reactor"."jobs", "a reactor.b", zq.c`,
		`'"reactor.x"."jobs_1"'::regclass, 'jobs'`:                    `'"reactor.x"."jobs_1"'::regclass, 'zt'`,
		`"reactor""s jobs" 'jobs'`:                                    `"reactor""s jobs" 'zt'`,
		`reactor.a "reactor.b`:                                        `zq.a "reactor.b`,
		"":                                                            "",
		"reactor.":                                                    "reactor.",
		"Grüße reactor.x üreactor.x":                                  "Grüße zq.x üreactor.x",
	} {
		for range 2 { // the second from the cache
			if got := n.In(text); got != want {
				t.Errorf("%s\nbecomes %s\nwant    %s", text, got, want)
			}
		}
	}
}

// TestDefaultNamesCostNothing: the default names, given or not, leave a text as it is, without a copy.
func TestDefaultNamesCostNothing(t *testing.T) {
	text := strings.Repeat("SELECT FROM reactor.lanes, 'jobs';", 10)
	for _, n := range []naming.Names{{}, named(t, "", ""), named(t, "reactor", "jobs"), named(t, "", "app.jobs")} {
		if got := n.In(text); unsafe.StringData(got) != unsafe.StringData(text) {
			t.Errorf("%+v makes another text", n)
		}
		if n.Lock(7) != 7 {
			t.Errorf("%+v has another lock", n)
		}
	}
	if n := named(t, "", "app.jobs"); n.Schema() != "reactor" || n.Home() != "app" || n.Table() != "jobs" {
		t.Errorf("%+v", n)
	}
}

// TestLocksDiffer: deployments do not wait for each other, nor one of their locks for another.
func TestLocksDiffer(t *testing.T) {
	seen := map[int64]string{}
	for _, schema := range []string{"reactor", "a", "b", "reactor_app"} {
		for _, key := range []int64{1, 2, 0x72656163746f72} {
			lock, who := named(t, schema, "").Lock(key), fmt.Sprint(schema, key)
			if other, ok := seen[lock]; ok {
				t.Errorf("%s and %s have the same lock", who, other)
			}
			seen[lock] = who
		}
	}
}

// TestRefusedNames: what would need quotes, or would be cut, or is a word of SQL.
func TestRefusedNames(t *testing.T) {
	long := strings.Repeat("x", 41)
	for _, test := range []struct{ schema, table, field string }{
		{"Reactor", "", "Schema"},
		{"a b", "", "Schema"},
		{"1a", "", "Schema"},
		{"a-b", "", "Schema"},
		{`a"b`, "", "Schema"},
		{"a;b", "", "Schema"},
		{"ä", "", "Schema"},
		{"a.b", "", "Schema"},
		{"pg_app", "", "Schema"},
		{long, "", "Schema"},
		{"user", "", "Schema"},
		{"information_schema", "", "Schema"},
		{"a'b", "", "Schema"},
		{"", "Jobs", "JobsTable"},
		{"", "app.", "JobsTable"},
		{"", ".jobs", "JobsTable"},
		{"", "a.b.c", "JobsTable"},
		{"", "order", "JobsTable"},
		{"", "table.jobs", "JobsTable"},
		{"", "app." + long, "JobsTable"},
		{"", "pg_temp.jobs", "JobsTable"},
		{"zq", "zq.jobs", "JobsTable"},
		{"", "reactor.jobs", "JobsTable"},
		{"", ".", "JobsTable"},
	} {
		_, err := naming.New(test.schema, test.table)
		var bad *naming.Error
		if !errors.As(err, &bad) || bad.Field != test.field || strings.Contains(bad.Problem, "\n") {
			t.Errorf("%q, %q: %v", test.schema, test.table, err)
		}
	}
	longest := strings.Repeat("x", 40)
	for _, name := range []string{"a", "_", "_a1", "jobs", "orders", "text", "schedule", "reactor_jobs", longest} {
		named(t, name, "app."+name)
	}
	// The longest identifiers that the texts derive.
	n := named(t, longest, longest)
	for _, derived := range []string{"reactor_jobs_inserted", "reactor_schedules_truncated", "jobs_before_partitions", "jobs_p20260101_0000_100", "jobs_occurrence"} {
		if got := n.In(derived); len(got) > 63 || !strings.HasPrefix(got, longest) {
			t.Errorf("%s becomes %s, of %d bytes", derived, got, len(got))
		}
	}
}

// TestCacheIsBounded: texts that are put together do not fill the memory, and are still rewritten.
func TestCacheIsBounded(t *testing.T) {
	n := named(t, "zq", "")
	for i := range 5000 {
		if got, want := n.In(fmt.Sprint("SELECT FROM reactor.lanes LIMIT ", i)), fmt.Sprint("SELECT FROM zq.lanes LIMIT ", i); got != want {
			t.Fatal(got)
		}
	}
	if got := naming.Cached(n); got > 1024 {
		t.Errorf("%d texts are kept", got)
	}
}

// FuzzIn: nothing outside of the words changes, whatever the text.
func FuzzIn(f *testing.F) {
	f.Add(`SELECT "x" FROM reactor.jobs_key 'jobs'`)
	n, err := naming.New("zq", "zt")
	if err != nil {
		f.Fatal(err)
	}
	normal := strings.NewReplacer("reactor", "", "jobs", "", "zq", "", "zt", "")
	f.Fuzz(func(t *testing.T, text string) {
		if got := n.In(text); normal.Replace(got) != normal.Replace(text) {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}

func BenchmarkIn(b *testing.B) {
	text := strings.Repeat("UPDATE reactor.lanes SET epoch = $1 WHERE lane = $2; ", 60)
	n, err := naming.New("zq", "zt")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = n.In(text)
	}
}
