package pgsource_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

func TestMain(m *testing.M) {
	testkit.Main(m, testkit.WithMigrations(func(ctx context.Context, url string) error {
		_, err := pgsource.MigrateUp(ctx, url)
		return err
	}))
}

// bench is a source on a database of its own, with a member and a lane.
type bench struct {
	*pgsource.Source
	t      testing.TB
	ctx    context.Context
	url    string
	conn   *pgx.Conn // the application's and the examiner's
	member reactor.Member
	lease  reactor.Lease
}

func newBench(t testing.TB) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	b := &bench{t: t, ctx: ctx, url: testkit.NewDatabase(t)}
	b.conn = connect(t, ctx, b.url)
	b.Source = open(t, ctx, pgsource.Config{DatabaseURL: b.url, RetryAttempts: 2})
	b.member, b.lease = b.join(b.Source)
	return b
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
func (b *bench) join(s *pgsource.Source) (reactor.Member, reactor.Lease) {
	b.t.Helper()
	m, err := s.Join(b.ctx, reactor.JoinOptions{Lanes: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	h, err := m.Beat(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(h.Leases) == 0 {
		b.t.Fatal("joined without a lane")
	}
	return m, h.Leases[0]
}

// insert adds n jobs due at the given offset from now and returns their ids.
func (b *bench) insert(n int, offset string) []int64 {
	b.t.Helper()
	rows, err := b.conn.Query(b.ctx, `
		INSERT INTO jobs (topic, payload, fire_at)
		SELECT 't/' || n, 'payload ' || n, now() + $2::interval + n * interval '1 microsecond'
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
func (b *bench) now() reactor.DBTime {
	b.t.Helper()
	now, err := b.Now(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return now
}

func (b *bench) request(ids []int64) reactor.ClaimRequest {
	req := reactor.ClaimRequest{Delivery: reactor.AtLeastOnce, Lease: b.lease, IDs: ids, Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20}
	req.Token[0] = byte(b.count("SELECT count(*) FROM reactor.in_flight") + 1)
	return req
}

func (b *bench) claim(ids []int64) reactor.Batch {
	b.t.Helper()
	batch, err := b.Claim(b.ctx, b.request(ids))
	if err != nil {
		b.t.Fatal(err)
	}
	return batch
}

func (b *bench) settle(st reactor.Settlement) {
	b.t.Helper()
	if _, err := b.Settle(b.ctx, []reactor.Settlement{st}); err != nil {
		b.t.Fatal(err)
	}
}
