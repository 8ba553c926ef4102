package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// A service applies the schema and publishes the jobs until its context ends. This needs a
// PostgreSQL and a broker, so it is compiled and not run.
func Example() {
	ctx := context.Background() // in a service: one that ends with SIGTERM
	const databaseURL = "postgres://user:password@localhost:5432/app"

	applied, err := pgsource.MigrateUp(ctx, databaseURL)
	if err != nil {
		log.Fatal(err) // one line that says what to do
	}
	log.Println("applied:", applied)

	source, err := pgsource.New(pgsource.Config{DatabaseURL: databaseURL, Name: "instance-1"})
	if err != nil {
		log.Fatal(err)
	}
	sink, err := mqttsink.New(mqttsink.Config{URL: "mqtt://localhost"})
	if err != nil {
		log.Fatal(err)
	}
	r, err := reactor.New(source, sink, reactor.Config{})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// New does not connect. It names the field of the configuration that it refuses.
func ExampleNew() {
	_, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://localhost/app", MaxConns: 1})
	fmt.Println(err)

	var bad *driver.ConfigError
	if errors.As(err, &bad) {
		fmt.Println(bad.Field)
	}
	// Output:
	// pgsource: MaxConns is 1, must be 2 to 128
	// MaxConns
}

// FeedSwitch changes a running deployment to the WAL feed. Running it again completes a change that
// was interrupted.
func ExampleFeedSwitch() {
	change := pgsource.FeedSwitch{
		DatabaseURL: "postgres://owner:password@localhost:5432/app",
		To:          pgsource.FeedWAL,
		Patience:    5 * time.Minute,
		Tell:        func(step string) { log.Println(step) },
	}
	if err := change.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
