package main

import (
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// settings parses a command line with an environment.
func settings(t *testing.T, environ []string, args ...string) (*commands, *cli.Environment, *kong.Kong, error) {
	t.Helper()
	var c commands
	env := cli.NewEnvironment(environ)
	parser, err := newProgram(&c).Parser(env, kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) { t.Error("the parser ended the program") }))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return &c, env, parser, err
}

func TestVariables(t *testing.T) {
	c, env, _, err := settings(t, []string{
		"REACTOR_DATABASE_URL=\tpostgres://db/app \r\n", "REACTOR_MQTT_URL=mqtt://variable", "REACTOR_MQTT_PASSWORD= secret \r\n",
		"REACTOR_LANES=3\n", "REACTOR_GRACE=", "REACTOR_JOBS_PER_READ= ", "REACTOR_MIGRATE=false", "REACTOR_TRACE=true", "REACTOR_DELIVERY=at-most-once",
		"REACTOR_JOBS=many", // a setting of reactor-lab
	}, "run", "--mqtt-url", "mqtt://flag\n", "--mqtt-url", " mqtt://other,mqtt://third", "--max-reads", "0")
	if err != nil {
		t.Fatal(err)
	}
	want := runCommand{
		databaseFlags: databaseFlags{DatabaseURL: "postgres://db/app"}, instanceFlags: instanceFlags{DatabaseConnections: 6}, MaxFeedWAL: 4096, PartitionsAhead: 7, Migrate: false,
		brokerFlags: brokerFlags{MQTTURL: "mqtt://flag,mqtt://other,mqtt://third", MQTTPassword: " secret ", FailoverAfter: 10 * time.Second}, deliveryFlags: deliveryFlags{Delivery: reactor.AtMostOnce}, Lanes: 3,
		JobsPerRead: 4096, LoopFrequency: 2 * time.Second, MaxPending: 262144, Grace: 10 * time.Second,
		pageFlags:    pageFlags{HTTPPage: pageOn},
		Trace:        true,
		LoggingFlags: cli.LoggingFlags{LogFormat: "auto"},
	}
	if c.Run != want {
		t.Errorf("the settings are\n%+v, want\n%+v", c.Run, want)
	}
	for flag, set := range map[string]bool{"database-url": true, "lanes": true, "mqtt-url": false, "grace": false, "max-reads": false} {
		if env.Gave(flag) != set {
			t.Errorf("--%s is from its variable: %v, want %v", flag, !set, set)
		}
	}
}

func TestMistakesInVariables(t *testing.T) {
	flags := []string{"run", "--database-url", "postgres://127.0.0.1:1/x", "--mqtt-url", "mqtt://x"}
	for name, test := range map[string]struct {
		variable string
		args     []string
		want     string // in the only line that is not a line of the log
	}{
		"zero":       {"REACTOR_LANES=0", flags, "--lanes (from REACTOR_LANES) is 0, must be 1 to 64"},
		"no number":  {"REACTOR_LANES=many", flags, `got "many" (from REACTOR_LANES)`},
		"no mode":    {"REACTOR_DELIVERY=twice", flags, "use exactly-once, at-least-once or at-most-once (from REACTOR_DELIVERY)"},
		"slip":       {"REACTOR_LANE=1", flags, "REACTOR_LANE is no setting of reactor: did you mean REACTOR_LANES?"},
		"two slips":  {"REACTOR_CONSUMERINDX=1", flags, "did you mean REACTOR_CONSUMER_INDEX?"},
		"case":       {"REACTOR_lanes=1", flags, "did you mean REACTOR_LANES?"},
		"lower case": {"reactor_lanes=1", flags, "reactor_lanes is no setting of reactor: did you mean REACTOR_LANES?"},
		"negated":    {"REACTOR_NO_MIGRATE=1", flags, "did you mean REACTOR_MIGRATE=false?"},
		"missing":    {"REACTOR_MQTT_ULR=mqtt://x", flags[:3], "--mqtt-url=URL; the environment variable REACTOR_MQTT_ULR is no setting of reactor: did you mean REACTOR_MQTT_URL?"},
		"of migrate": {"REACTOR_DATABASE_UR=x", []string{"migrate", "up", "--database-url", "postgres://127.0.0.1:1/x"}, "did you mean REACTOR_DATABASE_URL?"},
	} {
		t.Run(name, func(t *testing.T) {
			code, output := call(t, []string{test.variable}, test.args...)
			if code != cli.ExitUsage || len(lines(output)) != 1 || !strings.Contains(output, test.want) {
				t.Errorf("exit code %d, output:\n%s\nwant code %d and one line with %q", code, output, cli.ExitUsage, test.want)
			}
		})
	}
}

// TestStrangers: a variable that only begins like one of ours is reported. Variables that Kubernetes or
// Docker define for a service with our name are not.
func TestStrangers(t *testing.T) {
	code, output := call(t, []string{
		"REACTOR_COLOUR_OF_THE_DOOR=red", "REACTOR_HTTP_PORT=8080",
		"REACTOR_SERVICE_HOST=10.0.0.1", "REACTOR_SERVICE_PORT=80", "REACTOR_SERVICE_PORT_HTTP=80", "REACTOR_PORT=tcp://10.0.0.1:80",
		"REACTOR_PORT_80_TCP=tcp://10.0.0.1:80", "REACTOR_PORT_80_TCP_ADDR=10.0.0.1", "REACTOR_LANE_SERVICE_HOST=10.0.0.2",
		"REACTOR_ENV_PATH=/bin", "REACTOR_LANES=",
	}, "run", "--no-migrate", "--database-url", "postgres://127.0.0.1:1/x", "--mqtt-url", "mqtt://x")
	if code != cli.ExitFailure || strings.Count(output, "it is ignored") != 2 ||
		!strings.Contains(output, "REACTOR_COLOUR_OF_THE_DOOR") || !strings.Contains(output, "REACTOR_HTTP_PORT") {
		t.Errorf("exit code %d, output:\n%s\nwant warnings of 2 variables, and an error about the database", code, output)
	}
	if code, output := call(t, []string{"REACTOR_LANE=1"}, "version"); code != 0 {
		t.Errorf("version: exit code %d, output:\n%s", code, output)
	}
}

// TestNoFlagLooksLikeAnother: a variable whose name is almost that of a setting is refused. So no name
// of a setting may be almost that of another.
func TestNoFlagLooksLikeAnother(t *testing.T) {
	_, _, parser, err := settings(t, nil, "version")
	if err != nil {
		t.Fatal(err)
	}
	for name := range flagsOf(parser.Model.Node) {
		others, typo := cli.NewEnvironment([]string{cli.VariableOf(name) + "=1"}).UnknownVariables(parser.Model.Node)
		if len(others) > 0 || typo != nil {
			t.Errorf("--%s is a stranger: %v, %v", name, others, typo)
		}
	}
}

// TestNoVariableMeansTwoThings: flags of several commands that share a variable are the same flag. And beside the
// settings of instances only these have one: what a single command does must not depend on a variable that
// somebody has set for an instance, or has forgotten.
func TestNoVariableMeansTwoThings(t *testing.T) {
	_, _, parser, err := settings(t, nil, "version")
	if err != nil {
		t.Fatal(err)
	}
	type meaning struct{ command, help, typ, standard string }
	first := map[string]meaning{}
	outside := map[string]bool{}
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for _, flag := range node.Flags {
			if flag.Name == "help" || slices.Contains(flag.Tag.Envs, "-") {
				continue
			}
			if node.FullPath() != "reactor run" {
				outside[flag.Name] = true
			}
			this := meaning{node.FullPath(), flag.Help, flag.Target.Type().String(), flag.Default}
			other, ok := first[flag.Name]
			if !ok {
				first[flag.Name] = this
				continue
			}
			this.command, other.command = "", ""
			if this != other {
				t.Errorf("%s means one thing for %s and another for %s: %+v, %+v", cli.VariableOf(flag.Name), first[flag.Name].command, node.FullPath(), other, this)
			}
		}
		for _, child := range node.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	if got, want := slices.Sorted(maps.Keys(outside)), []string{"database-connections", "database-password-file", "database-url", "delivery", "feed", "http-addr", "jobs-table", "listen-url", "mqtt-ca", "mqtt-cert", "mqtt-failover-after", "mqtt-key", "mqtt-password", "mqtt-password-file", "mqtt-server-name", "mqtt-url", "mqtt-username", "mqtt-username-file", "patience", "role-prefix", "schema", "without-triggers"}; !slices.Equal(got, want) {
		t.Errorf("flags with a variable beside those of reactor run: %v, want %v", got, want)
	}
	if len(first) < 20 {
		t.Errorf("%d flags have a variable: the walk is probably broken", len(first))
	}
}

func flagsOf(node *kong.Node) map[string]bool {
	all := map[string]bool{}
	for _, flag := range node.Flags {
		if slices.Contains(flag.Tag.Envs, "-") { // it has no variable
			continue
		}
		if flag.Name != "help" {
			all[flag.Name] = true
		}
	}
	for _, child := range node.Children {
		for name := range flagsOf(child) {
			all[name] = true
		}
	}
	return all
}

// TestReadmeNamesEverything: the README's settings are all flags of reactor run, and its commands are all commands.
func TestReadmeNamesEverything(t *testing.T) {
	_, _, parser, err := settings(t, nil, "version")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Settings")
	for _, command := range parser.Model.Children {
		switch {
		case command.Name == "run":
			for name := range flagsOf(command) {
				if !strings.Contains(table, "`--"+name+"`") && !strings.Contains(table, "`--[no-]"+name+"`") {
					t.Errorf("the settings lack --%s", name)
				}
			}
		case len(command.Children) > 0:
			var names []string
			for _, child := range command.Children {
				names = append(names, child.Name)
			}
			if list := "`reactor " + command.Name + " " + strings.Join(names, "|") + "`"; !strings.Contains(table, list) {
				t.Errorf("the other commands lack %s", list)
			}
		}
	}
}

// TestFieldsHaveFlags: the fields and the flags that the command replaces them by exist.
func TestFieldsHaveFlags(t *testing.T) {
	_, _, parser, err := settings(t, nil, "version")
	if err != nil {
		t.Fatal(err)
	}
	flags := flagsOf(parser.Model.Node)
	for field, flag := range cli.FlagOf {
		exists := slices.ContainsFunc([]any{reactor.Config{}, pgsource.Config{}, pgsource.Roles{}, mqttsink.Config{}}, func(c any) bool {
			_, ok := reflect.TypeOf(c).FieldByName(field)
			return ok
		})
		if !exists || !flags[flag] {
			t.Errorf("the field %s exists: %v, the flag --%s: %v", field, exists, flag, flags[flag])
		}
	}
}

// TestURLFromAFile: the line end after a URL from a file is ignored.
func TestURLFromAFile(t *testing.T) {
	t.Parallel()
	database, mqtt := testkit.NewDatabase(t)+"\n", testkit.Broker(t).URL()+"\r\n"
	if code, output := call(t, nil, "migrate", "status", "--database-url", database); code != 0 || !strings.Contains(output, "APPLIED") {
		t.Errorf("exit code %d, output:\n%s", code, output)
	}
	for name, test := range map[string]struct{ env, args []string }{
		"variables": {env: []string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + mqtt, "REACTOR_LISTEN_URL=" + database}},
		"flags":     {args: []string{"--database-url", database, "--mqtt-url", mqtt, "--listen-url", database}},
	} {
		code, output := call(t, test.env, append([]string{"run", "--max-reads", "1"}, test.args...)...)
		if code != 0 {
			t.Errorf("%s: exit code %d, output:\n%s", name, code, output)
		}
	}
}

// TestNoGrace: a stop with a grace of 0 does not wait, whatever is in flight; the messages in flight
// are neither lost nor sent twice.
func TestNoGrace(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	proxy := testkit.NewProxy(t, mqtt)
	p := start(t, database, proxy.Through(mqtt), "--grace", "0s")
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at) VALUES ('job/first', now())`)
	if err := judge.WaitDistinct(ctx, 1); err != nil {
		t.Fatal(err)
	}
	proxy.Stall(netfault.ToServer)
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at) SELECT 'job/' || n, now() FROM generate_series(1, 1000) n`)
	for waiting := true; waiting; {
		if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM jobs WHERE NOT processed)").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	p.Terminate(t)
	if code := p.Wait(t, time.Minute); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.Output())
	}
	// Closing the connections to both servers has time limits of its own; the default grace is 10 s.
	if took := time.Since(begun); took > 7*time.Second {
		t.Errorf("it waited for %v", took)
	}
	proxy.Cut()
	start(t, database, mqtt)
	if err := judge.WaitDistinct(ctx, 1001); err != nil {
		t.Fatal(err)
	}
	expected, err := check.ExpectedFromDB(ctx, db, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(expected, judge.Received(), check.Config{}).Err(); err != nil {
		t.Error(err)
	}
}
