package main

import (
	"net"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestFailuresAreOneLine: after each failure there is one line that says what to do, an exit code,
// and no password.
func TestFailuresAreOneLine(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, plain := testkit.NewDatabase(t), testkit.Broker(t).URL()
	guarded := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "sesame"}).URL()
	exec(t, ctx, connect(t, ctx, database), "DROP ROLE IF EXISTS lowly; CREATE ROLE lowly LOGIN")
	t.Cleanup(func() { exec(t, ctx, connect(t, ctx, database), "DROP ROLE lowly") })
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	run := func(database, broker string, more ...string) []string {
		return append([]string{"run", "--database-url", database, "--mqtt-url", broker}, more...)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no command":          {nil, 2, "--help"},
		"unknown flag":        {[]string{"run", "--colour"}, 2, "unknown flag --colour"},
		"no database":         {[]string{"run", "--mqtt-url", plain}, 2, "--database-url"},
		"no broker":           {[]string{"run", "--database-url", database}, 2, "--mqtt-url"},
		"bad number":          {run(database, plain, "--lanes", "many"), 2, "--lanes"},
		"bad delivery":        {run(database, plain, "--delivery", "twice"), 2, "use exactly-once, at-least-once or at-most-once"},
		"bad level":           {run(database, plain, "--log-level", "loud"), 2, "use debug, info, warn or error"},
		"bad deployment":      {run(database, plain, "--deployment", "a/b"), 2, "--deployment is a/b, must be letters"},
		"bad feed":            {run(database, plain, "--feed", "pigeon"), 2, "use auto, wal, notify or poll"},
		"no log":              {run(database, plain, "--max-feed-wal", "0"), 2, "--max-feed-wal is 0, must be 16 MiB"},
		"no replication":      {run(database+"&user=lowly", plain, "--no-migrate", "--feed", "wal"), 1, "GRANT"},
		"change over to what": {[]string{"migrate", "feed", "poll", "--database-url", database}, 2, "use wal or notify"},
		"bad policy":          {run(database, plain, "--on-session-loss", "shrug"), 2, "use republish or fail"},
		"index out of range":  {run(database, plain, "--consumer-count", "5", "--consumer-index", "5"), 2, "--consumer-index is 5, must be 0 to 4 with a --consumer-count of 5"},
		"index without count": {run(database, plain, "--consumer-index", "1"), 2, "--consumer-count is not set"},
		"no connections":      {run(database, plain, "--database-connections", "0"), 2, "--database-connections is 0, must be 2 to 128"},
		"all connections":     {run(database, plain, "--database-connections", "100000"), 2, "--database-connections is 100000, must be"},
		"no lanes":            {run(database, plain, "--lanes", "0"), 2, "--lanes is 0, must be 1 to 64"},
		"no rows":             {run(database, plain, "--jobs-per-read", "0"), 2, "--jobs-per-read is 0, must be"},
		"no pause":            {run(database, plain, "--loop-frequency", "0s"), 2, "--loop-frequency is 0s, must be"},
		"endless loop":        {run(database, plain, "--loop-frequency", "2562047h"), 2, "--loop-frequency is 2562047h0m0s, must be"},
		"no memory":           {run(database, plain, "--max-pending", "0"), 2, "--max-pending is 0, must be"},
		"negative grace":      {run(database, plain, "--grace=-1ns"), 2, "--grace is -1ns, must be"},
		"negative reads":      {run(database, plain, "--max-reads=-1"), 2, "--max-reads is -1, must"},
		"negative count":      {run(database, plain, "--consumer-count=-1"), 2, "--consumer-count is -1, must"},
		"empty database url":  {run("", plain), 2, "--database-url is empty"},
		"bad listen url":      {run(database, plain, "--listen-url", "postgres://u:sesame@host:port/x"), 2, "--listen-url is not"},
		"bad database url":    {run("postgres://u:sesame@host:port/x", plain), 2, "postgres://user:password@host:5432/database"},
		"quoted database url": {run(`"`+"postgres://u:sesame@h/x?sslmode=disable"+`"`, plain), 2, "--database-url is not a connection string"},
		"password with slash": {run("postgres://u:12/sesame@127.0.0.1:1/x", plain), 2, "/ as %2F"},
		"password with at":    {run("postgres://u:12@sesame@127.0.0.1:1/x", plain), 2, "@ as %40"},
		"migrate what":        {[]string{"migrate", "up", "--database-url", ""}, 2, "--database-url is empty"},
		"migrate quoted url":  {[]string{"migrate", "up", "--database-url", "'postgres://u:sesame@h/x?sslmode=disable'"}, 2, "--database-url is not a connection string"},
		"which help":          {[]string{"migrate", "up", "--colour"}, 2, "see reactor migrate up --help"},
		"websocket is away":   {run(database, "ws://u:sesame@127.0.0.1:1/mqtt?token=sesame"), 1, "is the broker running"},
		"brokers are away":    {run(database, "mqtt://u:sesame@127.0.0.1:1", "--mqtt-url", "mqtt://u:sesame@127.0.0.1:2"), 1, "broker 127.0.0.1:2: connection refused"},
		"negative patience":   {run(database, plain, "--mqtt-failover-after=-5s"), 2, "--mqtt-failover-after is -5s, must be 0s to 24h"},
		"no such CA":          {run(database, "mqtts://u:sesame@host", "--mqtt-ca", "/nowhere/ca.pem"), 2, "--mqtt-ca /nowhere/ca.pem cannot be used"},
		"CA without TLS":      {run(database, plain, "--mqtt-ca", "/nowhere/ca.pem"), 2, "--mqtt-ca is for TLS"},
		"cert without key":    {run(database, "wss://host", "--mqtt-cert", "/nowhere/cert.pem"), 2, "give --mqtt-key as well"},
		"two passwords":       {run(database, plain, "--mqtt-password", "sesame", "--mqtt-password-file", "/nowhere/password"), 2, "--mqtt-password-file and --mqtt-password are both given"},
		"no password file":    {run(database, plain, "--mqtt-password-file", "/nowhere/password"), 2, "--mqtt-password-file /nowhere/password cannot be used"},
		"no grace, no broker": {run(database, "mqtts://u:sesame@127.0.0.1:1", "--grace", "0s"), 1, "is the broker running"},
		"bad mqtt url":        {run(database, "mqtt://u:ses%ame@host"), 2, "mqtt://user:password@host:1883"},
		"http to mqtt":        {run(database, "http://u:sesame@host"), 2, "must begin with mqtt://"},
		"database is away":    {run("postgres://u:sesame@127.0.0.1:1/x", plain), 1, "is PostgreSQL running"},
		"no such database":    {run(strings.Replace(database, "/test_", "/nothing_", 1), plain), 1, "create the database"},
		"no rights":           {run(database+"&user=lowly", plain, "--no-migrate"), 1, "GRANT"},
		"no right to migrate": {run(database+"&user=lowly", plain), 1, "reactor migrate up"},
		"broker is away":      {run(database, "mqtt://u:sesame@127.0.0.1:1"), 1, "is the broker running"},
		"login refused":       {run(database, strings.Replace(guarded, "sesame", "sesame-street", 1)), 1, "check user and password"},
		"port taken":          {run(database, plain, "--http-addr", taken.Addr().String()), 1, "--http-addr"},
	} {
		t.Run(name, func(t *testing.T) {
			code, output := call(t, nil, test.args...)
			var said []string
			for _, line := range lines(output) {
				if !strings.HasPrefix(line, "{") { // the log
					said = append(said, line)
				}
			}
			if code != test.code || len(said) != 1 || !strings.Contains(said[0], test.want) || strings.Contains(output, "sesame") {
				t.Errorf("exit code %d, output:\n%s\nwant code %d, one line with %q, and no password", code, output, test.code, test.want)
			}
		})
	}
}

func TestMigrateCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	exec(t, ctx, connect(t, ctx, database), "DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	env := []string{"REACTOR_DATABASE_URL=" + database}
	for _, step := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"migrate", "status"}, 0, "pending"},
		{[]string{"migrate", "up"}, 0, "applied schema\napplied triggers\napplied identity\napplied feeds\napplied punctual\napplied managed\napplied observed"},
		{[]string{"migrate", "up"}, 0, "nothing to do"},
		{[]string{"migrate", "up", "--repair"}, 0, "created again what was missing"},
		{[]string{"migrate", "down"}, 0, "undid observed"},
		{[]string{"migrate", "down"}, 0, "undid managed"},
		{[]string{"migrate", "down"}, 0, "undid punctual"},
		{[]string{"migrate", "down"}, 0, "undid feeds"},
		{[]string{"migrate", "down"}, 0, "undid identity"},
		{[]string{"migrate", "down"}, 0, "undid triggers"},
		{[]string{"migrate", "down"}, 1, `would drop the table "public"."jobs" with 0 jobs`},
		{[]string{"migrate", "down"}, 1, "add --yes"},
		{[]string{"migrate", "down", "--yes"}, 0, "undid schema"},
		{[]string{"migrate", "down", "--yes"}, 0, "nothing to undo"},
	} {
		code, output := call(t, env, step.args...)
		if code != step.code || !strings.Contains(output, step.want) {
			t.Errorf("%v: exit code %d, output:\n%s\nwant %d and %q", step.args, code, output, step.code, step.want)
		}
	}
}

// TestForeignTable: every command reports a table jobs of another program, and no command advises
// the user to run another one that fails as well.
func TestForeignTable(t *testing.T) {
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	db := connect(t, ctx, database)
	exec(t, ctx, db, "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE TABLE jobs (id bigint, queue text)")
	for _, args := range [][]string{
		{"migrate", "up", "--database-url", database},
		{"run", "--database-url", database, "--mqtt-url", testkit.Broker(t).URL()},
		{"migrate", "up", "--database-url", database},
	} {
		if code, output := call(t, nil, args...); code != 1 || !strings.Contains(output, "table public.jobs already, and it is not reactor's: rename it, or name another table as --jobs-table, such as") {
			t.Errorf("%v: exit code %d, output:\n%s", args, code, output)
		}
	}
	if code, output := call(t, nil, "migrate", "down", "--yes", "--database-url", database); code != 0 || !strings.Contains(output, "nothing to undo") {
		t.Errorf("migrate down: exit code %d, output:\n%s", code, output)
	}
	var left int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM pg_namespace WHERE nspname = 'reactor'").Scan(&left); err != nil || left != 0 {
		t.Errorf("schema reactor is left behind, %v", err)
	}
	exec(t, ctx, db, "INSERT INTO jobs VALUES (1, 'theirs')") // the table is unchanged
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--help"}, "reactor run"},
		{[]string{"run", "--help"}, "$REACTOR_DATABASE_URL"},
		{[]string{"migrate", "--help"}, "status"},
		{[]string{"version"}, "reactor "},
	} {
		if code, output := call(t, nil, test.args...); code != 0 || !strings.Contains(output, test.want) {
			t.Errorf("%v: exit code %d, output:\n%s\nwant %q", test.args, code, output, test.want)
		}
	}
}
