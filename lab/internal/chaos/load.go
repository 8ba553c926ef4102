package chaos

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// load inserts jobs during the faults. If the answer to an insert is lost, it does not matter
// whether the rows were committed: the checks read the expected jobs from the table.
type load struct {
	deployment *deployment

	mu     sync.Mutex
	conn   *pgx.Conn // guarded by mu; nil after an error
	writes bool      // guarded by mu; inserts override default_transaction_read_only
}

// A tenth of the jobs are to be published in the order of their key, which is their topic. They are due
// later than the others: a job that is inserted when one behind it has been claimed comes too late to be
// before it.
const insertSQL = `
INSERT INTO jobs (topic, payload, fire_at, ordering_key)
SELECT topic, 'message ' || n || ' of ' || txid_current(), 
       clock_timestamp() + CASE WHEN topic ^@ '` + orderedTopics + `' THEN interval '2 s' ELSE '0 s' END + $2::interval + random() * $3::interval,
       CASE WHEN topic ^@ '` + orderedTopics + `' THEN topic END
  FROM generate_series(1, $1) AS n
 CROSS JOIN LATERAL (SELECT CASE WHEN n % 10 = 0 THEN '` + orderedTopics + `' || (n / 10 + txid_current()) % 20 ELSE 'chaos/' || n % 50 END) AS t (topic)`

// orderedTopics is how the topics of jobs begin that have an ordering key.
const orderedTopics = "chaos/ordered/"

// instantSQL gives all rows of the statement the same fire_at.
const instantSQL = `
INSERT INTO jobs (topic, payload, fire_at)
SELECT 'chaos/' || n % 50, 'message ' || n || ' of ' || txid_current(), now() + $2::interval FROM generate_series(1, $1) AS n`

// refusedSQL inserts jobs that the broker refuses.
const refusedSQL = `
INSERT INTO jobs (topic, payload, fire_at)
SELECT 'refused/' || n % 5, 'message ' || n || ' of ' || txid_current(), clock_timestamp() FROM generate_series(1, $1) AS n`

// run inserts at the configured rate until ctx ends.
func (l *load) run(ctx context.Context) {
	const every = 100 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		// The jobs are due at random times within the next 3 s.
		_ = l.insert(ctx, insertSQL, int(float64(l.deployment.cfg.Rate)*every.Seconds()), time.Duration(0), 3*time.Second)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *load) burst(ctx context.Context, n int, ahead time.Duration) error {
	return l.insert(ctx, instantSQL, n, ahead)
}

func (l *load) refused(ctx context.Context, n int) error { return l.insert(ctx, refusedSQL, n) }

// overrideReadOnly decides whether inserts override default_transaction_read_only.
func (l *load) overrideReadOnly(writes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writes != writes {
		l.writes = writes
		l.drop()
	}
}

func (l *load) insert(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		cfg, err := pgx.ParseConfig(l.deployment.adminURL)
		if err != nil {
			return err
		}
		if l.writes {
			cfg.RuntimeParams["default_transaction_read_only"] = "off"
		}
		if l.conn, err = pgx.ConnectConfig(ctx, cfg); err != nil {
			l.conn = nil
			return err
		}
	}
	_, err := l.conn.Exec(ctx, sql, args...)
	if err != nil {
		l.drop()
	}
	return err
}

// drop closes the connection. The caller holds mu.
func (l *load) drop() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx)
		l.conn = nil
	}
}

func (l *load) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
}
