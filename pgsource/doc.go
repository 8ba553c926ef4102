// Package pgsource implements reactor's Source on PostgreSQL: the table of jobs, and everything
// durable around it, in the schema that package sql holds. It needs PostgreSQL 15 or newer with
// encoding UTF8.
//
// # Use
//
// MigrateUp creates the schema, or brings it up to date. New checks a Config. The Source that it
// returns goes to reactor.New, and Run opens and closes it:
//
//	_, err := pgsource.MigrateUp(ctx, "postgres://localhost/app")
//	source, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://localhost/app"})
//	r, err := reactor.New(source, sink, reactor.Config{})
//
// FeedSwitch changes a running deployment from one feed to the other. MigrateStatus lists the
// versions of the schema; PlanDown and MigrateDown undo the newest one; RestoreTable creates a
// dropped table again.
//
// # Promises
//
//   - A claim takes a job at most once: one statement and one commit lock, check, mark and journal
//     it. After a commit with an unknown outcome, ResolveClaim finds out whether it happened.
//   - A claim signs the rows that it takes with its token (jobs.claim). Whatever the journal, a
//     retry or a failure says of a job later applies to the row with that signature, and not to
//     another row that has got the same id.
//   - No transaction is open while a message is being published, and none waits for a row that an
//     application has locked.
//   - Every statement that writes says in its comment what happens if the instance crashes just
//     before and just after its commit.
//   - The settings that this depends on are made on every connection, and read back (settings.go).
//
// # What it does not promise
//
// A feed may lose, repeat or delay its hints: the sweep finds the jobs. Two physical copies of one
// database cannot tell that they are copies (identity.go). A row that a trigger or a constraint
// keeps from being claimed is recorded in reactor.failed_jobs, and not repaired.
//
// # Connections
//
// A pool serves claims, loads and settlements, and one at a time of the statements that may take
// long. It opens connections as statements need them, and when many jobs were loaded, so that no job
// is late for being the first; it closes those that are not needed any more, but for one (pool.go).
// One connection serves the membership alone, so that a heartbeat never waits behind other
// statements, and one serves the feed: an idle instance holds three. If the server has none left for
// more, the statements share those that there are. Behind a pooler each statement is a transaction with its own settings.
// All connections have the same application_name: when an instance is deposed, the others terminate
// its connections by that name.
//
// # Errors
//
// The errors of Open and of the functions that migrate are one line that says what to do. They
// unwrap to the error of pgx, such as a *pgconn.PgError. No error repeats a connection string.
//
// # Files
//
//	inspect.go     inspects the server, the table and the rights; limits.go, url.go, connections.go
//	               and stale.go are parts of that
//	settings.go    the settings of our sessions; database.go runs statements, on the connections of
//	               pool.go
//	identity.go    the deployment's name, and whether this database is a copy of another
//	load.go        reads jobs that are due soon
//	claim.go       claims a batch; rows.go and properties.go read its rows, ids.go encodes its ids, sift.go finds
//	               rows that cannot be claimed
//	recover.go     reads the journal of a lane whose last owner is gone
//	settle.go      takes batches out of the journal, and records failures
//	returns.go     returns jobs to the table; chores.go does so periodically
//	membership.go  heartbeats, shards and lanes; plan.go decides who should own what; join.go enters, and snapshot.go
//	               is what a heartbeat tells
//	feed.go        selects the feed: notify.go receives the triggers' notifications, wal.go reads the
//	               WAL (pgoutput.go decodes it, walvisible.go waits until a commit is visible,
//	               walretention.go limits what the server keeps, walobstacle.go says what is
//	               missing); provision.go checks what the table has for them, and feedswitch.go
//	               changes a deployment over
//	partitioned.go the statements, for a table with or without partitions
//	partitions.go  makes partitions and drops them
//	retention.go   deletes rows of jobs that have ended; retentionindex.go, retentionchore.go, orphans.go
//	jobsadmin.go   for operators: jobstate.go, jobslist.go, jobsschedule.go, jobsshow.go, jobsact.go; status.go
//	migrate.go     applies the schema, and migratedown.go undoes it; repair.go makes lost parts again;
//	               announcement.go keeps the triggers such as older instances understand them
//	opening.go     opens a connection for an operator
package pgsource
