package producer_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/job-publisher/reactor/producer"
)

// An application changes its own tables and schedules a reminder, both or neither. This needs a
// PostgreSQL, so it is compiled and not run, as the other examples here.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://app:password@localhost:5432/app")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET state = 'waiting' WHERE id = 17"); err != nil {
			return err
		}
		_, _, err := producer.Schedule(ctx, producer.Pgx(tx), producer.Job{
			Topic: "orders/17/reminder", Payload: `{"order": 17}`, ContentType: "application/json",
			FireAt: time.Now().Add(time.Hour), Key: "reminder of order 17",
		})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Later, when the order was paid.
	outcome, err := producer.Cancel(ctx, producer.Pgx(pool), producer.Key("reminder of order 17"))
	if err != nil {
		log.Fatal(err)
	}
	if outcome == producer.FiringNow || outcome == producer.AlreadyFired {
		log.Println("the reminder is out")
	}
}

// With database/sql it is the same.
func ExampleSQL() {
	ctx := context.Background()
	db, err := sql.Open("pgx", "postgres://app:password@localhost:5432/app") // imports github.com/jackc/pgx/v5/stdlib
	if err != nil {
		log.Fatal(err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()
	ids, err := producer.Insert(ctx, producer.SQL(tx),
		producer.Job{Topic: "lamps/1", Payload: "on", FireAt: time.Now().Add(time.Minute)},
		producer.Job{Topic: "lamps/1", Payload: "off", FireAt: time.Now().Add(2 * time.Minute)})
	if err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
	log.Println("jobs", ids)
}

// A million jobs, made one by one while they are copied.
func ExampleInsertMany() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "postgres://app:password@localhost:5432/app")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	begin := time.Now().Add(time.Hour)
	var jobs iter.Seq[producer.Job] = func(yield func(producer.Job) bool) {
		for i := range 1_000_000 {
			if !yield(producer.Job{Topic: fmt.Sprint("meters/", i, "/read"), FireAt: begin.Add(time.Duration(i) * time.Millisecond)}) {
				return
			}
		}
	}
	n, err := producer.InsertMany(ctx, conn, jobs)
	if err != nil {
		log.Fatal(err)
	}
	log.Println(n, "jobs")
}

// A job that is not valid is refused with the rule. Most rules are the database's.
func ExampleRuleError() {
	_, err := producer.Insert(context.Background(), producer.DB{}, producer.Job{Topic: "lamps/1", Payload: "\xff"})
	fmt.Println(err)

	var refused *producer.RuleError
	if errors.As(err, &refused) {
		fmt.Println("column:", refused.Column)
	}
	// Output:
	// producer: insert job 1 of 1: payload must be UTF-8 without zero bytes
	// column: payload
}

// Answers that nothing was changed are no errors.
func ExampleOutcome_Changed() {
	for _, outcome := range []producer.Outcome{producer.Cancelled, producer.FiringNow, "an answer of a newer version"} {
		fmt.Println(outcome, outcome.Changed())
	}
	// Output:
	// cancelled true
	// too late, firing now false
	// an answer of a newer version false
}
