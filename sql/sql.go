// Package sql holds the database's schema as files, one text for a person with
// psql, for `reactor migrate`, for the tests and for the demo.
package sql

import _ "embed" // the files below

// Migration is one version of the schema. A version that has been released is
// never edited: a change comes as a new version, with files of its own.
type Migration struct {
	Version  int64
	Name     string
	Up, Down string
}

// Migrations are all versions, ascending.
var Migrations = []Migration{
	{Version: 1, Name: "schema", Up: schemaUp, Down: schemaDown},
	{Version: 2, Name: "triggers", Up: triggersUp, Down: triggersDown},
	// The texts can be run again, and bring the tables of earlier versions up to date.
	// Earlier programs do without what this adds; nothing has to be undone.
	{Version: 3, Name: "identity", Up: schemaUp + triggersUp},
	// No text of a later version may create the triggers where a deployment has publications
	// instead.
	{Version: 4, Name: "feeds", Up: schemaUp, Down: triggersUp + PublicationsDown},
}

var (
	//go:embed schema.sql
	schemaUp string
	//go:embed schema.down.sql
	schemaDown string
	//go:embed triggers.sql
	triggersUp string
	//go:embed triggers.down.sql
	triggersDown string
)

// The texts by what they are for. The two ways of telling the instances of new jobs may be
// changed at any time.
var (
	// SchemaUp creates the tables where they are missing.
	SchemaUp = schemaUp
	// TriggersUp creates the triggers that notify, and TriggersDown drops them.
	TriggersUp, TriggersDown = triggersUp, triggersDown
	// PublicationsUp creates the publications that the WAL feed reads.
	//go:embed publications.sql
	PublicationsUp string
	// PublicationsDown drops them.
	//go:embed publications.down.sql
	PublicationsDown string
)
