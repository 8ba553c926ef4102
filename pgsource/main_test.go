package pgsource_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

// bench is a source on a database of its own, with a member and a lane.
type bench struct {
	*pgsource.Source
	t      testing.TB
	ctx    context.Context
	url    string
	conn   *pgx.Conn // for the statements of applications and of the test
	member driver.Member
	lease  driver.Lease
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := examine(t, testkit.NewDatabase(t))
	b.start(b.url)
	return b
}

// examine returns a bench on a database, without a source.
func examine(t testing.TB, url string) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return &bench{t: t, ctx: ctx, url: url, conn: connect(t, ctx, url)}
}

// start opens the bench's source through a URL, and joins.
func (b *bench) start(url string) {
	b.t.Helper()
	b.Source = open(b.t, b.ctx, pgsource.Config{DatabaseURL: url, RetryAttempts: 2})
	b.member, b.lease = b.join(b.Source)
}

// refused returns why a source does not open, in one line.
func (b *bench) refused(cfg pgsource.Config) string {
	b.t.Helper()
	s, err := pgsource.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	if err = s.Open(b.ctx); err == nil {
		b.t.Fatal("the source opens, and should refuse")
	}
	if strings.Contains(err.Error(), "\n") {
		b.t.Errorf("the refusal is more than a line: %v", err)
	}
	return err.Error()
}

// roleNumber numbers the roles, which belong to the server and remain with -count.
var roleNumber atomic.Int64

// role creates a role for this test, with the rights that the README names for reactor, and returns
// its name and its URL.
func (b *bench) role(options string) (name, url string) {
	b.t.Helper()
	name = fmt.Sprintf("role_%d", roleNumber.Add(1))
	b.exec("CREATE ROLE " + name + " LOGIN " + options)
	b.t.Cleanup(func() {
		if _, err := b.conn.Exec(context.Background(), "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
			b.t.Errorf("drop role: %v", err)
		}
	})
	return name, as(b.t, b.url, name)
}

// grant gives a role the rights that the README names.
func (b *bench) grant(role string) {
	b.t.Helper()
	b.exec("GRANT SELECT, UPDATE ON jobs TO " + role + "; GRANT USAGE ON SCHEMA reactor TO " + role + "; GRANT ALL ON ALL TABLES IN SCHEMA reactor TO " + role)
}

// as returns the URL with another user.
func as(t testing.TB, database, user string) string {
	t.Helper()
	return with(t, database, "user", user)
}

// with returns the URL with another parameter.
func with(t testing.TB, database, key, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// refuse settles a batch of which all jobs were refused by the broker.
func (b *bench) refuse(batch driver.Batch) {
	b.t.Helper()
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: len(batch.Jobs), Kept: len(batch.Jobs), Concluded: len(batch.Jobs), Done: true}
	for _, job := range batch.Jobs {
		st.Failures = append(st.Failures, driver.Failure{JobID: job.ID, Code: 0x87, Reason: "not authorized"})
	}
	b.settle(st)
}

// published settles a batch.
func (b *bench) published(batch driver.Batch) {
	b.t.Helper()
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: len(batch.Jobs), Kept: len(batch.Jobs), Concluded: len(batch.Jobs), Done: true})
}

// unsent hands a whole batch back.
func (b *bench) unsent(batch driver.Batch) {
	b.t.Helper()
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: len(batch.Jobs), Done: true})
}

// idsOf are the ids of a batch's jobs, ascending.
func idsOf(batch driver.Batch) []int64 {
	ids := make([]int64, 0, len(batch.Jobs))
	for _, job := range batch.Jobs {
		ids = append(ids, job.ID)
	}
	slices.Sort(ids)
	return ids
}

// eventually waits until a query returns true. If the bench has a member, it beats meanwhile, as an
// instance does.
func (b *bench) eventually(what, sql string, args ...any) {
	b.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := b.conn.QueryRow(b.ctx, sql, args...).Scan(&ok); err != nil {
			b.t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		if b.member != nil {
			if _, err := b.member.Beat(b.ctx); err != nil {
				b.t.Fatalf("%s: %v", what, err)
			}
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.t.Fatalf("%s: it does not happen", what)
		}
	}
}

func open(t testing.TB, ctx context.Context, cfg pgsource.Config) *pgsource.Source {
	t.Helper()
	cfg.Logger = testkit.Logger(t)
	s, err := pgsource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, ctx context.Context, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// join makes a member that wants one lane, and takes everything that is free.
func (b *bench) join(s *pgsource.Source) (driver.Member, driver.Lease) {
	b.t.Helper()
	m, err := s.Join(b.ctx, driver.JoinOptions{Lanes: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	for {
		h, err := m.Beat(b.ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(h.Leases) > 0 {
			return m, h.Leases[0]
		}
		// Another instance is distributing lanes at the moment.
	}
}

// insert adds n jobs due at the given offset from now and returns their ids.
func (b *bench) insert(n int, offset string) []int64 {
	b.t.Helper()
	rows, err := b.conn.Query(b.ctx, `
		INSERT INTO jobs (topic, payload, fire_at)
		SELECT 't/' || n::text, 'payload ' || n::text, now() + $2::interval + n * interval '1 microsecond'
		  FROM generate_series(1, $1) n RETURNING id`, n, offset)
	if err != nil {
		b.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.ctx, sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	if err := b.conn.QueryRow(b.ctx, sql, args...).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// now is the database's time.
func (b *bench) now() driver.DBTime {
	b.t.Helper()
	now, err := b.Now(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return now
}

func (b *bench) request(ids []int64) driver.ClaimRequest {
	req := driver.ClaimRequest{QoS: 1, Lease: b.lease, IDs: ids, From: driver.DistantPast, To: 1 << 62, Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20}
	req.Token = driver.NewToken()
	return req
}

func (b *bench) claim(ids []int64) driver.Batch {
	b.t.Helper()
	batch, err := b.Claim(b.ctx, b.request(ids))
	if err != nil {
		b.t.Fatal(err)
	}
	return batch
}

func (b *bench) settle(st driver.Settlement) {
	b.t.Helper()
	if _, err := b.Settle(b.ctx, []driver.Settlement{st}); err != nil {
		b.t.Fatal(err)
	}
}

// ownServer is the configuration of a server of a test's own.
var ownServer = stack.PostgresConfig{Trust: true}
