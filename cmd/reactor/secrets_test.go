package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// secret is a part of every password in these tests. Nothing that a program writes or shows may contain it.
const secret = "sesame"

// hunted is a database and a broker that want passwords, each with all the characters that have a meaning in URLs.
type hunted struct {
	server               *stack.Postgres
	database, mqtt       string // with the passwords, %-encoded
	password, mqttSecret string
	withoutMQTT          string // the broker's URL without user and password
}

func hunt(t *testing.T) hunted {
	t.Helper()
	h := hunted{server: testkit.OwnPostgres(t, stack.PostgresConfig{}), password: "1/2?" + secret + "#3@4:5 6", mqttSecret: "7/8?" + secret + "#9@0 2"}
	ctx := testContext(t)
	conn := connect(t, ctx, h.server.URL())
	exec(t, ctx, conn, "CREATE ROLE hunter LOGIN PASSWORD '"+h.password+"'")
	exec(t, ctx, conn, "CREATE DATABASE hunted OWNER hunter")
	u, err := url.Parse(h.server.DatabaseURL("hunted"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("hunter", h.password)
	h.database = u.String()
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "hunter", Password: h.mqttSecret})
	b, err := url.Parse(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	b.User = url.UserPassword("hunter", h.mqttSecret)
	h.mqtt = b.String()
	b.User = nil
	h.withoutMQTT = b.String()
	return h
}

// shows fails the test if a text contains a part of a password.
func shows(t *testing.T, what, text string) {
	t.Helper()
	if at := strings.Index(text, secret); at >= 0 {
		t.Errorf("%s shows a password: …%s…", what, text[max(0, at-200):min(len(text), at+100)])
	}
}

// TestNoSecretInErrors: whatever is wrong with a URL, a server or the command line, no output shows a part of a password.
// A word of its output says that each case is what it is meant to be.
func TestNoSecretInErrors(t *testing.T) {
	t.Parallel()
	h := hunt(t)
	database, mqtt := "REACTOR_DATABASE_URL="+h.database, "REACTOR_MQTT_URL="+h.mqtt
	at := func(text string) string { return "REACTOR_DATABASE_URL=" + text }
	wrong := strings.Replace(h.database, secret, "not"+secret, 1)
	unused := "127.0.0.1:1"
	_, host, _ := strings.Cut(h.database, "@")
	type of struct {
		env  []string
		args string
		want string
	}
	cases := []of{
		{[]string{at(wrong), mqtt}, "run", "password authentication failed"},
		{[]string{at(wrong), mqtt}, "run --log-level debug", "password authentication failed"},
		{[]string{at(wrong)}, "migrate", "password authentication failed"},
		{[]string{at(wrong)}, "migrate --roles", "password authentication failed"},
		{[]string{at(wrong)}, "migrate status", "password authentication failed"},
		{[]string{at(wrong)}, "jobs list", "password authentication failed"},
		{[]string{at(wrong)}, "jobs purge --older-than 24h --yes", ""},
		{[]string{at(wrong)}, "schedules list", "password authentication failed"},
		{[]string{at(wrong)}, "partitions status", "password authentication failed"},
		{[]string{at(wrong)}, "status", "password authentication failed"},
		{[]string{at("postgres://u:" + secret + "@" + unused + "/app"), mqtt}, "run", "connection refused"},
		{[]string{at("postgres://u:" + secret + "@nowhere.invalid/app"), mqtt}, "run", "nowhere.invalid"},
		{[]string{at("host=127.0.0.1 port=1 user=u password=" + secret), mqtt}, "run", "connection refused"},
		{[]string{at(strings.Replace(h.database, "sslmode=disable", "sslmode=verify-full", 1)), mqtt}, "run", "TLS"},
		{[]string{at(h.database + "&sslrootcert=/nowhere/ca.pem&sslmode=verify-ca"), mqtt}, "run", ""},
		{[]string{at(strings.Replace(h.database, "sslmode=disable", "application_name=x&"+secret+"=1", 1)), mqtt}, "run", "refuses a setting"},
		{[]string{at(strings.Replace(h.database, "/hunted", "/nothing", 1)), mqtt}, "run", "does not exist"},
		{[]string{database, "REACTOR_MQTT_URL=" + strings.Replace(h.mqtt, secret, "not"+secret, 1)}, "run", ""},
		{[]string{database, "REACTOR_MQTT_URL=mqtt://u:" + secret + "@" + unused}, "run", "connection refused"},
		{[]string{database, "REACTOR_MQTT_URL=" + strings.Replace(h.mqtt, "mqtt:", "mqtts:", 1)}, "run", ""},
		{[]string{database, "REACTOR_MQTT_URL=" + strings.Replace(h.mqtt, "mqtt:", "ws:", 1)}, "run", ""},
		{[]string{database, "REACTOR_MQTT_URL=http://u:" + secret + "@host"}, "run", "mqtt://"},
		{[]string{database, mqtt, "REACTOR_MQTT_PASSWORD=" + secret, "REACTOR_MQTT_PASSWORD_FILE=/nowhere/file"}, "run", "both given"},
		{[]string{database, mqtt, "REACTOR_LANES=" + h.database}, "run", "--lanes"},
		{[]string{database, mqtt, "REACTOR_DATABSE_URL=" + h.database}, "run", "REACTOR_DATABASE_URL"},
		{[]string{database, mqtt, "REACTOR_HTTP_ADDR=" + h.mqtt}, "run", ""},
		{[]string{database, mqtt}, "run --databse-url=" + h.database, "unknown flag"},
		{[]string{database, mqtt}, "run --mqtt-password my " + secret, "unexpected argument"},
		{[]string{database, mqtt}, "run " + h.database, "unexpected argument"},
		{[]string{database, mqtt, "OTEL_EXPORTER_OTLP_ENDPOINT=http://u:" + secret + "@" + unused + "/%zz"}, "run --trace", "OTEL_EXPORTER_OTLP_ENDPOINT"},
		{[]string{database, mqtt}, "run --help", "--database-url"},
		{[]string{database}, "migrate --roles --print", "CREATE ROLE"},
	}
	for _, text := range []string{
		"postgres://u:12/%s?c=d@" + host, "postgres://u:12/ab?c=%s@" + host, "postgres://u:12?%s@" + host, "postgres://u:12#%s@" + host,
		"postgres://u:12@%s@" + host, "postgres://u:%s", "jdbc:postgresql://u:%s@" + host, "postgres://u:%%zz%s@" + host,
	} {
		cases = append(cases, of{[]string{at(fmt.Sprintf(text, secret)), mqtt}, "run", "--database-url"})
	}
	for _, text := range []string{"mqtt://u:12/%s@host", "mqtt://u:12?%s@host", "mqtt://u:12#%s@host", "mqtt://u:12@%s@host", "mqtt://u:%s", "u:%s@host", "%s://host"} {
		cases = append(cases, of{[]string{database, "REACTOR_MQTT_URL=" + fmt.Sprintf(text, secret)}, "run", "--mqtt-url"})
	}
	var group errgroup.Group
	group.SetLimit(4)
	for _, c := range cases {
		group.Go(func() error {
			p := testkit.Run(t, testkit.ProcessConfig{Path: testkit.Reactor(t), Args: strings.Fields(c.args), Env: c.env})
			what := strings.ReplaceAll(fmt.Sprint(c.args, " with ", c.env), secret, "…")
			// Some failures end the program; after others it tries again, and says so.
			for {
				select {
				case <-p.Done():
				case <-time.After(20 * time.Millisecond):
					output := p.Output()
					if c.want != "" && !strings.Contains(output, c.want) || !strings.Contains(output, `"level":"WARN"`) && !strings.Contains(output, `"level":"ERROR"`) {
						continue
					}
					p.Kill(t)
				}
				break
			}
			if output := p.Output(); output == "" || !strings.Contains(output, c.want) {
				t.Errorf("%s printed %q, want %q in it", what, output, c.want)
			}
			shows(t, what, p.Output())
			return nil
		})
	}
	_ = group.Wait()
}

// TestNoSecretWhileRunning: an instance with passwords in URLs, and one with files, through refused passwords and ended
// connections, with the log at debug: neither its output, nor HTTP, nor the list of processes, nor the database shows a password.
func TestNoSecretWhileRunning(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	h := hunt(t)
	file, databaseFile := filepath.Join(t.TempDir(), "password"), filepath.Join(t.TempDir(), "database")
	testkit.WriteFile(t, file, []byte(h.mqttSecret+"\n"))
	testkit.WriteFile(t, databaseFile, []byte(h.password+"\n"))
	bare, err := url.Parse(h.database)
	if err != nil {
		t.Fatal(err)
	}
	bare.User = url.User("hunter")
	args := []string{"run", "--log-level=debug", "--http-addr=127.0.0.1:0", "--pprof"}
	byURL := testkit.Run(t, testkit.ProcessConfig{Path: testkit.Reactor(t), Args: args, Env: []string{"REACTOR_DATABASE_URL=" + h.database, "REACTOR_MQTT_URL=" + h.mqtt}})
	byFile := testkit.Run(t, testkit.ProcessConfig{
		Path: testkit.Reactor(t), Args: append(args, "--mqtt-username=hunter", "--mqtt-password-file="+file, "--database-password-file="+databaseFile),
		Env: []string{"REACTOR_DATABASE_URL=" + bare.String(), "REACTOR_MQTT_URL=" + h.withoutMQTT},
	})
	instances := map[string]*testkit.Process{"by URL": byURL, "by file": byFile}
	admin := connect(t, ctx, h.server.URL())
	judge := subscribe(t, ctx, h.mqtt, "hunt/#")
	look := func(when string) {
		t.Helper()
		for name, p := range instances {
			address := "http://" + httpAddress(t, ctx, p)
			for _, path := range []string{"/metrics", "/readyz", "/healthz", "/", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1"} {
				_, body := get(t, ctx, address+path)
				shows(t, name+", "+when+": "+path, body)
			}
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid())); err == nil { // Linux
				shows(t, name+", "+when+": ps", string(line))
			}
		}
		var activity string
		if err := admin.QueryRow(ctx, "SELECT string_agg(a::text, ' ') FROM pg_stat_activity a WHERE usename = 'hunter'").Scan(&activity); err != nil {
			t.Fatal(err)
		}
		shows(t, "pg_stat_activity, "+when, activity)
	}
	producer := connect(t, ctx, h.database)
	fire := func(n int) {
		t.Helper()
		for range n {
			exec(t, ctx, producer, "INSERT INTO jobs (topic, fire_at) VALUES ('hunt/1', now())")
		}
	}
	for _, p := range instances {
		waitLine(t, ctx, p, "serving health and metrics")
		awaitReady(t, ctx, "http://"+httpAddress(t, ctx, p)+"/readyz", "ready", 200, "")
	}
	fire(5)
	if err := judge.WaitDistinct(ctx, 5); err != nil {
		t.Fatal(err)
	}
	look("while all is well")

	exec(t, ctx, admin, "ALTER ROLE hunter PASSWORD 'another "+secret+"'")
	exec(t, ctx, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hunter' AND application_name LIKE 'reactor-%'")
	for _, p := range instances {
		waitLine(t, ctx, p, "password authentication failed")
	}
	look("while the password is wrong")
	// The one with the file goes on as soon as the file has the new password, and does the work of both.
	testkit.WriteFile(t, databaseFile, []byte("another "+secret))
	fire(5)
	if err := judge.WaitDistinct(ctx, 10); err != nil {
		t.Fatal(err)
	}
	look("while the password in the URL is wrong")
	exec(t, ctx, admin, "ALTER ROLE hunter PASSWORD '"+h.password+"'")
	testkit.WriteFile(t, databaseFile, []byte(h.password))
	fire(5)
	if err := judge.WaitDistinct(ctx, 15); err != nil {
		t.Fatal(err)
	}
	for name, p := range instances {
		p.Terminate(t)
		p.Wait(t, 30*time.Second)
		shows(t, name+": its log", p.Output())
	}
	var stored string
	if err := producer.QueryRow(ctx, "SELECT (SELECT string_agg(i::text, ' ') FROM reactor.instances i) || (SELECT string_agg(d::text, ' ') FROM reactor.deployment d)").Scan(&stored); err == nil {
		shows(t, "the tables", stored)
	}
}
