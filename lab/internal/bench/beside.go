package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// Beside the load another application can insert small jobs of its own: so many a second, each due
// at its time (Load.Beside), or one every so often that is due at once (Load.UrgentEvery). Their
// lateness is reported by itself.

const (
	// besideTopic is where these jobs are published.
	besideTopic = topicPrefix + "beside/job"
	// besideEvery is how often some jobs of Load.Beside are inserted, and besideAhead how long before
	// the first is due.
	besideEvery = 100 * time.Millisecond
	besideAhead = 200 * time.Millisecond
	// leastBeside is for how long that goes on at least.
	leastBeside = 5 * time.Second
)

// beside inserts the jobs, and receives them over a connection of its own: in one that has both, a
// large payload would hold them up.
type beside struct {
	sub      *subscriber
	begun    time.Time
	least    time.Duration // for how long it goes on, even when the load has arrived
	inserted atomic.Int64
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // once done
}

const besideSQL = `
INSERT INTO jobs (topic, payload, fire_at)
SELECT $1, 'beside', clock_timestamp() + $2::interval + n / $3::float8 * interval '1 second' FROM generate_series(0, $4::int - 1) AS n`

// beginBeside begins to insert.
func (d *deployment) beginBeside(ctx context.Context) (*beside, error) {
	sub, err := subscribe(ctx, d.broker, besideTopic, 0)
	if err != nil {
		return nil, err
	}
	conn, err := d.connect(ctx)
	if err != nil {
		sub.close()
		return nil, err
	}
	load := d.cfg.Load
	every, ahead, perSecond, least := besideEvery, besideAhead, load.Beside, leastBeside
	if load.UrgentEvery > 0 {
		every, ahead, perSecond, least = load.UrgentEvery, 0, 1/load.UrgentEvery.Seconds(), 0
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &beside{sub: sub, begun: time.Now(), least: least, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for owed := 0.0; deploy.Sleep(ctx, every); {
			owed += perSecond * every.Seconds()
			n := int(owed + 1e-9) // 1 an interval must not become 0.999…
			if n == 0 {
				continue
			}
			owed -= float64(n)
			// Not with ctx: a cancelled INSERT may have been committed, uncounted.
			if _, err := conn.Exec(context.WithoutCancel(ctx), besideSQL, besideTopic, ahead, perSecond, n); err != nil {
				b.err = fmt.Errorf("insert beside: %w", err)
				return
			}
			b.inserted.Add(int64(n))
		}
	}()
	return b, nil
}

// end ends the inserts, and returns how many jobs there were. It can be called again.
func (b *beside) end() (int, error) {
	b.cancel()
	<-b.done
	return int(b.inserted.Load()), b.err
}

// close also ends the subscription.
func (b *beside) close() {
	_, _ = b.end() // await has returned its error
	b.sub.close()
}

// measure compares these jobs with what arrived of them.
func (b *beside) measure(ctx context.Context, d *deployment) (*Measurement, error) {
	jobs, err := expected(ctx, d.conn, besideCondition(d.stored), time.Time{})
	if err != nil {
		return nil, err
	}
	received := b.sub.all()
	m := newMeasurement("beside", check.Compare(jobs, received, check.Config{}), received)
	return &m, nil
}
