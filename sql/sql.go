// Package sql holds the database's schema as SQL files, embedded as texts. The same texts serve a
// person with psql, pgsource.MigrateUp and `reactor migrate`, the tests and the demo.
//
// By hand, as the owner of the database:
//
//	psql -1 -f sql/schema.sql -f sql/triggers.sql
//
// Each text that creates something can be run again: it changes only what is missing or outdated.
// The texts find the table of jobs by the search path of the role on the first run, and by what
// reactor.deployment records afterwards.
//
// The package only holds texts. It does not execute them, and knows nothing of locks, of the record
// of applied versions or of running instances: pgsource.MigrateUp, MigrateDown and FeedSwitch do.
package sql

import (
	_ "embed" // the files below
	"strings"
)

// Migration is one version of the schema. A released version is never changed: a change of the
// schema is a new version.
type Migration struct {
	// Version is the number of the version: 1 and up, without gaps.
	Version int64
	Name    string
	// Up applies the version, and Down undoes it; an empty Down means that nothing has to be undone.
	// Each is a text of several statements, to be executed in one transaction.
	Up, Down string
}

// Migrations are all versions, in ascending order.
var Migrations = []Migration{
	{Version: 1, Name: "schema", Up: SchemaUp, Down: schemaDown},
	{Version: 2, Name: "triggers", Up: TriggersUp, Down: TriggersDown},
	// The texts can be run again, and update the tables of earlier versions. Earlier programs work
	// without what this adds, so nothing has to be undone.
	{Version: 3, Name: "identity", Up: SchemaUp + TriggersUp},
	// No later version may create the triggers, because a deployment may have publications instead.
	{Version: 4, Name: "feeds", Up: SchemaUp, Down: TriggersUp + AnnounceDown + PublicationsDown},
	// The function of the triggers is not replaced here: instances of earlier versions, which may be
	// running, ignore what the new one sends. pgsource.MigrateUp replaces it when they have gone.
	{Version: 5, Name: "punctual", Up: SchemaUp, Down: AnnounceDown},
	// Down leaves the columns and the table of schedules, and what is in them.
	{Version: 6, Name: "managed", Up: SchemaUp + GuardsUp + OrderingUp + FunctionsUp + SchedulesUp, Down: SchedulesDown + FunctionsDown + OrderingDown + GuardsDown},
	// Programs of version 6 run on with it, and lock nothing but the table of instances, for a moment.
	{Version: 7, Name: "observed", Up: SnapshotUp, Down: snapshotDown},
}

// Newest is the number of the newest version.
func Newest() int64 { return Migrations[len(Migrations)-1].Version }

// The parts of the schema. A deployment needs the tables, and the triggers or the publications to
// announce new jobs; those two can be exchanged at any time.
var (
	// SchemaUp creates the tables that are missing, and updates those of earlier versions.
	//go:embed schema.sql
	SchemaUp string
	//go:embed schema.down.sql
	schemaDown string
	// SnapshotUp is the part of SchemaUp that lets instances say how they are doing. It does not lock the table of
	// jobs, as all of SchemaUp would.
	SnapshotUp = section(SchemaUp, "-- Since version 7.")
	//go:embed snapshot.down.sql
	snapshotDown string

	// GuardsUp creates what keeps instances of versions before 6 from jobs that they do not understand.
	//go:embed guards.sql
	GuardsUp string
	// GuardsDown drops it.
	//go:embed guards.down.sql
	GuardsDown string

	// OrderingUp creates the function that keeps jobs with an ordering key in order.
	//go:embed ordering.sql
	OrderingUp string
	// OrderingDown drops it.
	//go:embed ordering.down.sql
	OrderingDown string

	// FunctionsUp creates the functions for producers.
	//go:embed functions.sql
	FunctionsUp string
	// FunctionsDown drops them.
	//go:embed functions.down.sql
	FunctionsDown string

	// SchedulesUp creates the table of schedules, and the functions and triggers that belong to it.
	//go:embed schedules.sql
	SchedulesUp string
	// SchedulesDown drops those, and leaves the table.
	//go:embed schedules.down.sql
	SchedulesDown string

	// TriggersUp creates the triggers, which notify the instances.
	//go:embed triggers.sql
	TriggersUp string
	// AnnounceUp is the part of TriggersUp that creates the function of the triggers. It takes no
	// lock on the table.
	AnnounceUp = TriggersUp[strings.Index(TriggersUp, "CREATE OR REPLACE FUNCTION") : strings.Index(TriggersUp, "\n$$;\n")+len("\n$$;\n")]
	// AnnounceDown makes that function the one of the versions before 5.
	//go:embed announce.down.sql
	AnnounceDown string
	// TriggersDown drops the triggers.
	//go:embed triggers.down.sql
	TriggersDown string

	// PublicationsUp creates the publications, which the WAL feed reads.
	//go:embed publications.sql
	PublicationsUp string
	// PartitionsUp makes jobs a table with partitions by fire_at. It is no version of the schema: a
	// deployment has partitions or not.
	//go:embed partitions.sql
	PartitionsUp string

	// PublicationsDown drops the publications.
	//go:embed publications.down.sql
	PublicationsDown string
)

// section returns the part of a text from a mark up to the next empty line.
func section(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	part, _, _ := strings.Cut(rest, "\n\n")
	return mark + part + "\n"
}
