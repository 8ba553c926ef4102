// Package pgsource is reactor's Source on PostgreSQL: the table of jobs, and
// everything durable around it, in the schema that sql/ holds.
//
//	inspect.go     finds out what the database URL leads to, and refuses what cannot be kept
//	settings.go    what our sessions set, whatever the role says; database.go runs statements
//	identity.go    the deployment's name, and whether this is a copy of another's database
//	load.go        reads the near future; locks nothing, decides nothing
//	claim.go       takes a batch: one statement, one commit, journalled
//	rows.go        reads its rows into memory of the batch; ids.go writes its ids
//	recover.go     reads the journal of a lane whose last owner is gone
//	settle.go      takes batches out of the journal, records failures
//	returns.go     gives jobs back to the table; chores.go when nobody waits for it
//	membership.go  heartbeats, shares and lanes; plan.go says who should own what
//	feed.go        which feed tells of new jobs: notify.go, the triggers' notifications; wal.go,
//	               logical replication (pgoutput.go decodes, walvisible.go waits until a commit
//	               can be seen, walguard.go looks after what the server keeps, walobstacle.go
//	               says what is lacking); provision.go, what the table has for them;
//	               feedswitch.go changes a deployment over
//	migrate.go     brings the schema up to date
//
// A claim signs the rows that it takes with its token (jobs.claim). Whatever is said of a job
// later, by the journal, a retry or a failure, is said of the row with that signature, and
// not of whatever has got its id since.
//
// Every statement that writes says in its comment what happens if we die just before
// and just after its commit. No transaction is held open while something is being
// published, and none waits for a row that an application has locked.
//
// # Connections
//
// A pool for claims, loads and settlements, filled and warmed at the start, so that no
// job is late for being the first; one connection of its own for the
// membership, so that a heartbeat never waits behind them; one for what may take long; one
// for the feed. Behind a pooler each statement is a transaction with its own settings. All carry
// the same application_name, by which other instances cut them off when this one is
// given up for dead.
package pgsource
