package bench

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// River is a queue in PostgreSQL for Go programs. Here each job of the load is a job of River's, in
// its own tables, whose worker publishes it at QoS 1 and completes when the broker has
// acknowledged it. All of them are inserted before the first is due, so that its tables grow as
// ours do.

// riverSchema holds River's tables.
const riverSchema = "reactor_bench_river"

const (
	// riverInsert is how many jobs are inserted at a time.
	riverInsert = 20_000
	// riverWorkers is how many jobs are worked on at once, and how many connections River has.
	riverWorkers, riverConns = 1000, 10
)

// riverJob is what River knows of a job of the load.
type riverJob struct {
	ID      int64  `json:"id"`
	Topic   string `json:"topic"`
	Payload []byte `json:"payload"`
}

// Kind implements river.JobArgs.
func (riverJob) Kind() string { return "publish" }

// river runs River until ctx ends.
func (b Bare) river(ctx context.Context) error {
	config, err := pgxpool.ParseConfig(b.DatabaseURL)
	if err != nil {
		return err
	}
	config.MaxConns = riverConns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	publish := &riverWorker{waiting: make(chan riverMessage, riverWorkers)}
	river.AddWorker(workers, publish)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: riverSchema, Workers: workers, Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		FetchCooldown: b.Poll.Every, FetchPollInterval: b.Poll.Every, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	first, err := b.insertIntoRiver(ctx, pool, client)
	if err != nil {
		return err
	}
	p, err := openPublisher(ctx, b.BrokerURL, "reactor-bench-river", reactor.AtLeastOnce)
	if err != nil {
		return err
	}
	defer p.close(context.WithoutCancel(ctx))
	go publish.run(ctx, p)
	if err := client.Start(ctx); err != nil {
		return err
	}
	if !time.Now().Before(first) {
		return errors.New("the baseline River was not ready when the first job was due: insert the jobs longer --ahead")
	}
	<-ctx.Done()
	return client.Stop(context.WithoutCancel(ctx))
}

// insertIntoRiver makes River's tables and inserts the load. It returns when the first job is due.
func (b Bare) insertIntoRiver(ctx context.Context, pool *pgxpool.Pool, client *river.Client[pgx.Tx]) (first time.Time, err error) {
	if _, err := pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+riverSchema+" CASCADE"); err != nil {
		return first, err
	}
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+riverSchema); err != nil {
		return first, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: riverSchema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return first, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return first, err
	}
	var jobs []river.InsertManyParams
	err = b.withConn(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id, topic, payload, fire_at FROM jobs WHERE "+loadCondition(b.After)+" ORDER BY fire_at, id")
		if err != nil {
			return err
		}
		var (
			job    riverJob
			fireAt time.Time
		)
		_, err = pgx.ForEachRow(rows, []any{&job.ID, &job.Topic, &job.Payload, &fireAt}, func() error {
			jobs = append(jobs, river.InsertManyParams{Args: job, InsertOpts: &river.InsertOpts{ScheduledAt: fireAt}})
			job.Payload = nil // the next row gets new memory
			return nil
		})
		return err
	})
	if err != nil || len(jobs) == 0 {
		return first, err
	}
	for some := range slices.Chunk(jobs, riverInsert) {
		if _, err := client.InsertManyFast(ctx, some); err != nil {
			return first, err
		}
	}
	_, err = pool.Exec(ctx, "ANALYZE "+riverSchema+".river_job")
	return jobs[0].InsertOpts.ScheduledAt, err
}

// dropRiver removes River's tables.
func (d *deployment) dropRiver(ctx context.Context) error {
	_, err := d.conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+riverSchema+" CASCADE")
	return err
}

// riverWorker publishes jobs over one connection.
type riverWorker struct {
	river.WorkerDefaults[riverJob]
	waiting chan riverMessage
}

// riverMessage is a job that waits, and where to say that the broker has it.
type riverMessage struct {
	driver.Message
	done chan error
}

// run publishes until ctx ends. What comes while the broker answers is sent together afterwards.
func (w *riverWorker) run(ctx context.Context, p *publisher) {
	for {
		var list []riverMessage
		select {
		case m := <-w.waiting:
			list = append(list, m)
		case <-ctx.Done():
			return
		}
		for len(w.waiting) > 0 && len(list) < riverWorkers {
			list = append(list, <-w.waiting)
		}
		messages := make([]driver.Message, len(list))
		for i, m := range list {
			messages[i] = m.Message
			messages[i].Slot = driver.Slot(i + 1)
		}
		err := p.send(ctx, messages)
		for _, m := range list {
			m.done <- err
		}
	}
}

// Work implements river.Worker.
func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverJob]) error {
	m := riverMessage{
		driver.Message{JobID: job.Args.ID, Topic: job.Args.Topic, Payload: job.Args.Payload, QoS: 1}, make(chan error, 1),
	}
	select {
	case w.waiting <- m:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-m.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
