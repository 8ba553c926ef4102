package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

func lab(t *testing.T) string { return testkit.Build(t, "./cmd/reactor-lab") }

// call runs this program in a separate process and waits for its end.
func call(t *testing.T, env []string, args ...string) (code int, output string) {
	t.Helper()
	p := testkit.Run(t, testkit.ProcessConfig{Path: lab(t), Args: args, Env: env})
	code = p.Wait(t, time.Minute)
	return code, p.Output()
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestFailuresAreOneLine: every error is one line that says what to do, without a password, and
// sets the exit code.
func TestFailuresAreOneLine(t *testing.T) {
	database, plain := testkit.NewDatabase(t), testkit.Broker(t).URL()
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no command":         {nil, 2, "see reactor-lab --help"},
		"bench where":        {[]string{"bench"}, 2, "--stack, or --database-url and --mqtt-url"},
		"bench no rate":      {[]string{"bench", "--stack", "--rate", "0"}, 2, "--rate is 0, must be"},
		"bench strange rate": {[]string{"bench", "--stack", "--rate", "NaN"}, 2, "--rate is NaN, must be"},
		"bench no spread":    {[]string{"bench", "--stack", "--spread", "0s"}, 2, "--spread is 0s, must be"},
		"bench no idleness":  {[]string{"bench", "--stack", "--idle", "0s"}, 2, "--idle is 0s, must be"},
		"bench not ahead":    {[]string{"bench", "--stack", "--ahead", "0s"}, 2, "--ahead is 0s, must be"},
		"bench no lanes":     {[]string{"bench", "--stack", "--lanes", "0"}, 2, "--lanes is 0, must be"},
		"bench ceiling":      {[]string{"bench", "--stack", "--ceiling", "--rate", "5"}, 2, "leave rate"},
		"bench two shapes":   {[]string{"bench", "--stack", "--spread", "5s", "--rate", "5"}, 2, "exclude each other"},
		"chaos low rate":     {[]string{"chaos", "--rate", "9"}, 2, "--rate at least 10"},
		"chaos short pause":  {[]string{"chaos", "--pause", "100us"}, 2, "--pause at least 10ms"},
		"bench floor":        {[]string{"bench", "--stack", "--floor"}, 2, "give a rate"},
		"bench no instances": {[]string{"bench", "--stack", "--instances", "1,0"}, 2, "must be 1 to 64"},
		"bench no rounds":    {[]string{"bench", "--stack", "--rounds", "0"}, 2, "--rounds is 0, must be"},
		"bench not urgent":   {[]string{"bench", "--stack", "--urgent-every", "0s"}, 2, "--urgent-every is 0s, must be"},
		"bench no folder":    {[]string{"bench", "--stack", "--plot", "/nowhere/x.svg"}, 1, "/nowhere/x.svg"},
		"bench idle plot":    {[]string{"bench", "--stack", "--idle", "1s", "--plot", "x.svg"}, 2, "leave --plot"},
		"bench no report":    {[]string{"bench", "--stack", "--report", "/nowhere/x.html"}, 1, "/nowhere/x.html"},
		"draw nothing":       {[]string{"draw", "main_test.go"}, 2, "--report, --plot or both"},
		"draw no results":    {[]string{"draw", "main_test.go", "--plot", "-"}, 1, "main_test.go is not what bench --json writes"},
		"bench no database":  {[]string{"bench", "--database-url", "postgres://u:sesame@127.0.0.1:1/x", "--mqtt-url", plain}, 1, "is PostgreSQL running"},
		"bench no broker":    {[]string{"bench", "--database-url", database, "--mqtt-url", "mqtt://u:sesame@127.0.0.1:1"}, 1, "is the broker running"},
		"bench no url":       {[]string{"bench", "--database-url", "postgres://u:12@sesame@127.0.0.1:1/x", "--mqtt-url", plain}, 2, "--database-url"},
		"chaos no instances": {[]string{"chaos", "--instances", "0"}, 2, "--instances"},
		"chaos what":         {[]string{"chaos", "--runs", "1", "--faults", "unknown"}, 1, "there is no fault"},
		"demo no jobs":       {[]string{"demo", "--jobs", "0"}, 2, "--jobs must be at least 1"},
		"no reactor":         {[]string{"demo", "--program", "/nowhere/reactor"}, 1, "give another --program"},
	} {
		t.Run(name, func(t *testing.T) {
			var env []string
			if len(test.args) > 0 {
				env = []string{"REACTOR_PROGRAM=" + testkit.Reactor(t)}
			}
			code, output := call(t, env, test.args...)
			lines := strings.Split(strings.TrimSpace(output), "\n")
			if code != test.code || len(lines) != 1 || !strings.Contains(output, test.want) || strings.Contains(output, "sesame") {
				t.Errorf("exit code %d, output:\n%s\nwant code %d, one line with %q, and no password", code, output, test.code, test.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--help"}, "reactor-lab demo"},
		{[]string{"demo", "--help"}, "Leaves nothing behind"},
		{[]string{"bench", "--help"}, "--same-instant"},
		{[]string{"bench", "--help"}, "--report=FILE.html"},
		{[]string{"draw", "--help"}, "--plot=FILE.svg"},
		{[]string{"chaos", "--help"}, "brokerkill"},
	} {
		if code, output := call(t, nil, test.args...); code != 0 || !strings.Contains(output, test.want) {
			t.Errorf("%v: exit code %d, output:\n%s\nwant %q", test.args, code, output, test.want)
		}
	}
}
