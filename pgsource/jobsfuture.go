package pgsource

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Future is how many unfired jobs fall due in each of some steps of time.
type Future struct {
	// From is the database's present time, where the first step begins.
	From driver.DBTime
	Step time.Duration
	// Jobs has a number for each step.
	Jobs []int64
	// Sampled is how many of the 64 shards were counted. With all of them the numbers are exact; otherwise each is what
	// these shards have, multiplied: ids are spread evenly over the shards, so that of n jobs that were counted the result is
	// wrong by about a part in √n.
	Sampled int
	// Cut is the first step that was not counted to its end, because even one shard has more than was to be read: that
	// step and those behind it have more than is told. len(Jobs): all were.
	Cut int
}

// Exact reports whether the numbers are those of all shards.
func (f Future) Exact() bool { return f.Sampled == driver.Shards && f.Cut == len(f.Jobs) }

// Total is the sum of all steps.
func (f Future) Total() (jobs int64) {
	for _, n := range f.Jobs {
		jobs += n
	}
	return jobs
}

const (
	// FutureRows is how many entries of the index Future reads, about; some 30 ms.
	FutureRows = 100_000
	// mostSteps bounds the answer of the database.
	mostSteps = 1000
)

// Future counts what falls due in the next steps, for example 60 of a second, 60 of a minute or 24 of an hour. It reads the index
// of unprocessed jobs, and no more than about FutureRows of its entries: of one shard first, and then of as many others as
// there is room for.
func (a *JobsAdmin) Future(ctx context.Context, step time.Duration, steps int) (f Future, err error) {
	return a.future(ctx, step, steps, FutureRows)
}

func (a *JobsAdmin) future(ctx context.Context, step time.Duration, steps int, rows int64) (f Future, err error) {
	if step < time.Millisecond || steps < 1 || steps > mostSteps || step > time.Duration(1<<62)/time.Duration(steps) {
		return f, &driver.ConfigError{Field: "steps", Value: steps, Problem: fmt.Sprintf("must be 1 to %d, each of a millisecond at least", mostSteps)}
	}
	a.needs = toLook
	if err := a.find(ctx); err != nil {
		return f, err
	}
	f = Future{Step: step, Jobs: make([]int64, steps), Cut: steps}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT "+micros("clock_timestamp()")).Scan(&f.From); err != nil {
			return err
		}
		first, err := a.countShards(ctx, tx, &f, 0, 0, rows)
		if err != nil {
			return err
		}
		f.Sampled = 1
		if f.Cut < steps {
			return nil
		}
		// A shard has as much as the first, about; one that has twice as much is cut.
		f.Sampled = int(min(driver.Shards, max(1, rows/max(first, 1))))
		if f.Sampled > 1 {
			_, err = a.countShards(ctx, tx, &f, 1, f.Sampled-1, max(2*first, rows/driver.Shards))
		}
		return err
	})
	for i := range f.Jobs {
		f.Jobs[i] = f.Jobs[i] * driver.Shards / int64(max(f.Sampled, 1))
	}
	return f, err
}

// countShards adds what some shards have, each up to a number of rows, and returns how many rows these were.
func (a *JobsAdmin) countShards(ctx context.Context, tx pgx.Tx, f *Future, first, last int, most int64) (total int64, err error) {
	var args parameters
	from := args.at(f.From)
	step := args.add(f.Step.Microseconds(), "bigint")
	ofShards := fmt.Sprintf("generate_series(%s, %s) AS s (shard)", args.add(first, "integer"), args.add(last, "integer"))
	end := args.at(f.From.Add(f.Step * time.Duration(len(f.Jobs))))
	rows, err := tx.Query(ctx, `
		SELECT shard, ((extract(epoch FROM bin - `+from+`) * 1000000)::bigint / `+step+`)::integer, counted FROM (
		    SELECT s.shard, date_bin(`+step+` * '1 microsecond'::interval, one.fire_at, `+from+`) AS bin, count(*) AS counted
		      FROM `+ofShards+` CROSS JOIN LATERAL (
		           SELECT job.fire_at FROM `+a.jobs+` AS job WHERE `+ofShard+` AND job.fire_at > `+from+` AND job.fire_at < `+end+`
		            ORDER BY job.fire_at, job.id LIMIT `+args.add(most, "bigint")+`) AS one
		     GROUP BY 1, 2) AS bins
		 ORDER BY 1, 2`, args...)
	if err != nil {
		return 0, err
	}
	var (
		shard, at int
		jobs, sum int64
		of        = -1
	)
	_, err = pgx.ForEachRow(rows, []any{&shard, &at, &jobs}, func() error {
		if shard != of {
			of, sum = shard, 0
		}
		f.Jobs[at] += jobs
		total += jobs
		if sum += jobs; sum >= most { // its last step, as far as it was read
			f.Cut = min(f.Cut, at)
		}
		return nil
	})
	return total, err
}
