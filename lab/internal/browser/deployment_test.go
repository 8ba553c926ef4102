package browser

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// marks are ids of messages that are of no job.
var marks atomic.Int64

const password = "open sesame, please"

// deployment is what the page shows: two instances of the real program, a database and a broker, and somebody who
// hears everything that is published.
type deployment struct {
	database, broker string
	one, two         *instance
	heard            *check.Subscriber
}

// instance is a process that publishes jobs, and serves the page.
type instance struct {
	name, url string
	config    testkit.ProcessConfig
	process   *testkit.Process
}

// deploy starts it, with instances of these names, and returns when the instances share the table. It ends with the test.
func deploy(t *testing.T, one, two string) *deployment {
	t.Helper()
	d := &deployment{database: testkit.NewDatabase(t), broker: testkit.Broker(t).URL()}
	var err error
	if d.heard, err = check.Subscribe(t.Context(), check.SubscriberConfig{URL: d.broker, Filter: "#", QoS: 2, Logger: testkit.Logger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.heard.Close() })
	file := filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, file, []byte(password+"\n"))
	d.one = d.start(t, one, file)
	d.two = d.start(t, two, file)
	db := d.connect(t)
	eventually(t, "two instances share the table", func() (bool, string) {
		owned := scan[int](t, db, "SELECT count(DISTINCT owner) FROM reactor.shards HAVING count(owner) = 64 UNION ALL SELECT 0 LIMIT 1")
		return owned == 2, fmt.Sprint(owned)
	})
	return d
}

// start starts an instance at a port of its own, which it keeps when it is started again.
func (d *deployment) start(t *testing.T, name, passwordFile string) *instance {
	t.Helper()
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	i := &instance{name: name, url: "http://" + address, config: testkit.ProcessConfig{
		Path: testkit.Reactor(t), Args: []string{"run", "--name", name, "--http-addr", address, "--http-password-file", passwordFile},
		Env: []string{"REACTOR_DATABASE_URL=" + d.database, "REACTOR_MQTT_URL=" + d.broker},
	}}
	i.restart(t)
	return i
}

// restart starts the instance, which must not be running, and returns when it serves.
func (i *instance) restart(t *testing.T) {
	t.Helper()
	i.process = testkit.Run(t, i.config)
	eventually(t, i.name+" serves", func() (bool, string) {
		answer, err := http.Get(i.url + "/healthz")
		if err != nil {
			return false, err.Error() + "\n" + i.process.Output()
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK, answer.Status
	})
}

// connect returns a connection to the database.
func (d *deployment) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(context.Background(), d.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	return db
}

func execute(t testing.TB, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// scan returns the only value that a query finds.
func scan[T any](t testing.TB, db *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// expired inserts jobs that are not published, because they were too late before anybody saw them, and returns their
// ids when an instance has recorded that.
func (d *deployment) expired(t testing.TB, db *pgx.Conn, topic string, jobs int) (ids []int64) {
	t.Helper()
	rows, err := db.Query(t.Context(), `INSERT INTO jobs (topic, payload, fire_at, expires_at)
		SELECT $1 || n, 'of ' || n, now() - interval '1 minute', now() - interval '30 seconds' FROM generate_series(1, $2) n RETURNING id`, topic, jobs)
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the jobs have expired", func() (bool, string) {
		n := scan[int](t, db, "SELECT count(*) FROM reactor.failed_jobs WHERE job_id = ANY ($1)", ids)
		return n == jobs, fmt.Sprint(n)
	})
	return ids
}

// messages is how many have arrived that are of jobs. Instances also send some to find out what the broker does.
func (d *deployment) messages() (n int) {
	for _, message := range d.heard.Received() {
		if message.ID != check.NoID {
			n++
		}
	}
	return n
}

// arriveOnce waits until the messages of jobs have arrived, and fails the test if one has arrived twice.
func (d *deployment) arriveOnce(t testing.TB, ids ...int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, id := range ids {
		if err := d.heard.WaitFor(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	// What was sent before this has arrived before this.
	mark := marks.Add(-1)
	if err := check.Mark(ctx, d.broker, "mark", mark); err != nil {
		t.Fatal(err)
	}
	if err := d.heard.WaitFor(ctx, mark); err != nil {
		t.Fatal(err)
	}
	times := map[int64]int{}
	for _, message := range d.heard.Received() {
		times[message.ID]++
	}
	for _, id := range ids {
		if times[id] != 1 {
			t.Errorf("job %d has arrived %d times", id, times[id])
		}
	}
}

// login logs in at an instance, and leaves the tab at a path.
func (d *deployment) login(x *tab, at *instance, path string) {
	x.t.Helper()
	x.open(at.url + "/login?next=" + path)
	x.fill("#name", "anna")
	x.fill("#password", password)
	x.follow("form.login button")
	if text := x.text("header"); !strings.Contains(text, "anna") {
		x.t.Fatalf("after the login the header says %q", text)
	}
}
