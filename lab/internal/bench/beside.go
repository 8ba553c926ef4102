package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

const (
	// besideTopic is where the jobs are published that fall due beside a backlog.
	besideTopic = topicPrefix + "beside/job"
	// besideEvery is how often some of them are inserted, and besideAhead how long before the first is due.
	besideEvery = 100 * time.Millisecond
	besideAhead = 200 * time.Millisecond
	// leastBeside is for how long that goes on at least.
	leastBeside = 5 * time.Second
)

// beside inserts small jobs that fall due at a steady rate, as another application would, while a
// backlog is drained.
type beside struct {
	cancel context.CancelFunc
	done   chan struct{}
	begun  time.Time
	// sub receives them over a connection of its own: a large payload would hold them up in one that
	// has both.
	sub  *subscriber
	jobs int   // once done
	err  error // once done
}

const besideSQL = `
INSERT INTO jobs (topic, payload, fire_at)
SELECT $1, 'beside', clock_timestamp() + $2::interval + n / $3::float8 * interval '1 second' FROM generate_series(0, $4::int - 1) AS n`

// beginBeside begins to insert so many jobs a second.
func (d *deployment) beginBeside(ctx context.Context, perSecond float64) (*beside, error) {
	sub, err := subscribe(ctx, d.broker, besideTopic, 0)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, d.database)
	if err != nil {
		sub.close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &beside{cancel: cancel, done: make(chan struct{}), begun: time.Now(), sub: sub}
	go func() {
		defer close(b.done)
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for owed := 0.0; deploy.Sleep(ctx, besideEvery); {
			owed += perSecond * besideEvery.Seconds()
			if n := int(owed); n > 0 {
				owed -= float64(n)
				if _, err := conn.Exec(context.WithoutCancel(ctx), besideSQL, besideTopic, besideAhead, perSecond, n); err != nil {
					b.err = fmt.Errorf("insert beside: %w", err)
					return
				}
				b.jobs += n
			}
		}
	}()
	return b, nil
}

// end ends it, and returns how many jobs there were.
func (b *beside) end() (int, error) {
	b.cancel()
	<-b.done
	return b.jobs, b.err
}

// close ends it for good.
func (b *beside) close() {
	_, _ = b.end()
	b.sub.close()
}

// besideLateness judges these jobs alone.
func besideLateness(jobs []check.Expected, received []check.Received) *Percentiles {
	mine := map[int64]bool{}
	var expected []check.Expected
	for _, job := range jobs {
		if job.Topic == besideTopic {
			mine[job.ID] = true
			job.KnownAt = time.Time{}
			expected = append(expected, job)
		}
	}
	var got []check.Received
	for _, m := range received {
		if mine[m.ID] {
			got = append(got, m)
		}
	}
	p := newMeasurement("beside", check.Compare(expected, got, check.Config{}), got).LatenessMillis
	return &p
}
