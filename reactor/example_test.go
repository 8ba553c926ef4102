package reactor_test

import (
	"context"
	"fmt"
	"log"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// Example publishes one job and stops. A service would pass the context of its own
// life to Run.
func Example() {
	databaseURL, brokerURL := exampleServers()

	source, err := pgsource.New(pgsource.Config{DatabaseURL: databaseURL})
	if err != nil {
		log.Fatal(err)
	}
	sink, err := mqttsink.New(mqttsink.Config{URL: brokerURL})
	if err != nil {
		log.Fatal(err)
	}
	r, err := reactor.New(source, sink, reactor.Config{JobsPerRead: 100, MaxReads: 1})
	if err != nil {
		log.Fatal(err)
	}

	// Any program, in any language, inserts jobs in its own transactions.
	insert(databaseURL, `INSERT INTO jobs (topic, payload, fire_at) VALUES ('lamp/7', 'on', now())`)

	if err := r.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("published:", r.Stats().Published)
	// Output: published: 1
}

func insert(databaseURL, sql string) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		log.Fatal(err)
	}
}

// exampleServers are a database of the example's own and the shared broker.
func exampleServers() (databaseURL, brokerURL string) {
	return testkit.NewDatabase(exampleTB{}), testkit.Broker(exampleTB{}).URL()
}

// exampleTB lets an example use the test kit. Its database goes with the server.
type exampleTB struct{ testing.TB }

func (exampleTB) Helper()                           {}
func (exampleTB) Cleanup(func())                    {}
func (exampleTB) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
