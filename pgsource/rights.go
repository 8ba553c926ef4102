package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// rights are what a command needs, by table: of schema reactor, or ofJobs, ofParts. Beside them it needs USAGE
// on the schemas of these tables.
type rights []right

type right struct{ table, privileges string }

// and returns these rights with more of them, each once.
func (r rights) and(more rights) rights {
	all := slices.Clone(r)
	for _, one := range more {
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	return all
}

const (
	ofJobs  = "*jobs"      // the table of jobs, in whatever schema and with whatever name
	ofParts = "*jobs/part" // its partitions and children, where they are used directly
	// ofFunctions stands for EXECUTE on the functions of schema reactor.
	ofFunctions = "functions"
	// ofOrder stands for EXECUTE on those that keep the order of jobs.
	ofOrder = "order"
)

var (
	ofState = rights{{"deployment", "SELECT"}, {"lanes", "SELECT"}, {"journal_starts", "SELECT"}, {"in_flight", "SELECT"}}
	toLook  = append(ofState[:len(ofState):len(ofState)],
		right{"retries", "SELECT"}, right{"failed_jobs", "SELECT"}, right{"schedules", "SELECT"}, right{ofJobs, "SELECT"})
	// toSeeStatus reads only: it is for people who watch a deployment and change nothing.
	toSeeStatus = append(ofState[:len(ofState):len(ofState)],
		right{"schema_version", "SELECT"}, right{"instances", "SELECT"}, right{"shards", "SELECT"}, right{"retries", "SELECT"}, right{"failed_jobs", "SELECT"}, right{ofJobs, "SELECT"})
	toShow   = append(toLook[:len(toLook):len(toLook)], right{"instances", "SELECT"})
	toChange = append(ofState[:len(ofState):len(ofState)],
		right{"retries", "SELECT"}, right{"failed_jobs", "SELECT"}, right{ofJobs, "SELECT, UPDATE"}, right{ofFunctions, "EXECUTE"})
	toCancel = append(toChange[:len(toChange):len(toChange)], right{ofJobs, "DELETE"})
	toPurge  = append(ofState[:len(ofState):len(ofState)],
		right{"retries", "SELECT, DELETE"}, right{"failed_jobs", "SELECT, DELETE"}, right{ofJobs, "SELECT, UPDATE, DELETE"}, right{ofParts, "SELECT, UPDATE, DELETE"})
	toPurgeSome = append(ofState[:len(ofState):len(ofState)],
		right{"retries", "SELECT, DELETE"}, right{"failed_jobs", "SELECT, DELETE"}, right{ofJobs, "SELECT, UPDATE, DELETE"})
	toSeeSchedules = rights{{"schedules", "SELECT"}}
	toAddSchedules = rights{{"schedules", "SELECT, INSERT"}, {"deployment", "SELECT"}}
	// The trigger of a change deletes and updates jobs, with the rights of who makes the change.
	toChangeSchedules = rights{{"schedules", "SELECT, UPDATE"}, {"deployment", "SELECT"}, {"retries", "SELECT"}, {ofJobs, "SELECT, UPDATE, DELETE"}}
	toDeleteSchedules = rights{{"schedules", "SELECT, DELETE"}, {"deployment", "SELECT"}, {"retries", "SELECT"}, {ofJobs, "SELECT, DELETE"}}
	toRunSchedules    = rights{{"schedules", "SELECT, UPDATE"}, {"deployment", "SELECT"}, {ofJobs, "SELECT, INSERT"}, {ofFunctions, "EXECUTE"}}
	toMakeJobs        = toRunSchedules // by an instance
	toSeePartitions   = rights{{"deployment", "SELECT"}, {ofParts, "SELECT"}}
	// toSeeVersions is what an instance needs to find out that it has nothing to migrate.
	toSeeVersions = rights{{"schema_version", "SELECT"}}
	// toPublish is what an instance needs at its start, beside toSeeVersions if it migrates.
	toPublish = append(rights{{ofJobs, "SELECT, UPDATE"}, {ofOrder, "EXECUTE"}}, ofInstance("deployment", "instances", "shards", "lanes", "in_flight", "journal_starts", "retries", "failed_jobs")...)
)

// tableRights are what the roles of a deployment may do with one table (roles.go).
type tableRights struct {
	table                      string
	instance, producer, viewer string // privileges; "": none
}

// ofTables are all tables, with who reads and writes them. The owner may do everything, and nobody else may do anything.
// A table that is new needs a line here: TestEveryTableHasItsRights.
var ofTables = []tableRights{
	// Applications insert jobs, and change those that were not claimed. Instances insert those of schedules, and delete
	// those that have ended (--retain).
	{ofJobs, everything, everything, "SELECT"},
	// Rows are deleted from a partition itself.
	{ofParts, "SELECT, UPDATE, DELETE", "", "SELECT"},
	// The functions for producers look up where the table of jobs is. An instance of a copy takes another name.
	{"deployment", "SELECT, UPDATE", "SELECT", "SELECT"},
	// The functions for producers look up what has become of a job, in the journal and the two tables behind it.
	{"lanes", "SELECT, INSERT, UPDATE", "SELECT", "SELECT"},
	{"in_flight", everything, "SELECT", "SELECT"},
	{"journal_starts", "SELECT, INSERT, DELETE", "SELECT", "SELECT"},
	{"retries", everything, "SELECT", "SELECT"},
	{"failed_jobs", everything, "SELECT", "SELECT"},
	// The membership. To create the shards is a matter of the migration.
	{"instances", everything, "", "SELECT"},
	{"shards", "SELECT, UPDATE", "", "SELECT"},
	// Whoever may write schedules publishes for ever: an application that is to gets the rights from its owner.
	{"schedules", "SELECT, UPDATE", "", "SELECT"},
	// An instance looks at its start whether it has to migrate.
	{"schema_version", "SELECT", "", "SELECT"},
}

// ofInstance returns the rights of an instance on tables.
func ofInstance(names ...string) (list rights) {
	for _, t := range ofTables {
		if slices.Contains(names, t.table) {
			list = append(list, right{t.table, t.instance})
		}
	}
	return list
}

// claimFunctions are the names of the functions that an instance calls (sql/ordering.sql, sql/schedules.sql).
const claimFunctions = "'{keys_in_flight,keys_to_return,waits_until,is_outdated,next_in_order,skips_late}'::text[]"

const everything = "SELECT, INSERT, UPDATE, DELETE"

// withRights is withConnection for a command that needs no more than these rights. If it lacks one of them, its error
// names the GRANT for exactly those.
func withRights(ctx context.Context, databaseURL string, of Names, needs rights, look bool, do func(*pgx.Conn) error) error {
	return withConnection(ctx, databaseURL, of, look, func(conn *pgx.Conn) error {
		return explainRights(ctx, conn, needs, do(conn))
	})
}

// explainRights names the GRANT in an error of the server about rights.
func explainRights(ctx context.Context, conn *pgx.Conn, needs rights, err error) error {
	if sqlState(err) != pgerrcode.InsufficientPrivilege {
		return err
	}
	var grants string
	if inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
		if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, missingRightsSQL, needs.names(), needs.privileges()).Scan(&grants)
	}) != nil || grants == "" {
		return err // it is something else: row-level security, a trigger of the application
	}
	return explained(err, "this role may not do that (%s): as the owner of the tables run %s", statementText(err), grants)
}

// names and privileges are the arguments of missingRightsSQL.
func (r rights) names() (list []string) {
	for _, right := range r {
		for range strings.Split(right.privileges, ", ") {
			list = append(list, right.table)
		}
	}
	return list
}

func (r rights) privileges() (list []string) {
	for _, right := range r {
		list = append(list, strings.Split(right.privileges, ", ")...)
	}
	return list
}

// missingRightsSQL writes the statements that grant the rights that the role lacks; an empty text if it lacks none. It reads
// catalogs only, which everybody may. It knows the table of jobs by its columns, because the role may not be allowed to
// read where it is.
var missingRightsSQL = fmt.Sprintf(`
WITH RECURSIVE needed (name, privilege, place) AS (
    SELECT * FROM unnest($1::text[], $2::text[]) WITH ORDINALITY
), home AS (
    SELECT c.oid FROM pg_class c
     WHERE relname = 'jobs' AND relkind IN ('r', 'p') AND 2 = (SELECT count(*) FROM pg_attribute
               WHERE attrelid = c.oid AND NOT attisdropped AND (attname = 'claim' AND atttypid = 'uuid'::regtype OR attname = 'shard' AND attgenerated = 's'))
       -- A table of another deployment has that one's triggers or publications.
       AND NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
                        WHERE t.tgrelid = c.oid AND p.proname = 'announce_jobs' AND n.nspname <> 'reactor')
       AND NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                        WHERE r.prrelid = c.oid AND p.pubname ~ '_jobs_(inserted|updated)$' AND p.pubname NOT IN ('reactor_jobs_inserted', 'reactor_jobs_updated'))
), parts (oid) AS (
    SELECT inhrelid FROM pg_inherits JOIN home ON inhparent = home.oid
    UNION SELECT inhrelid FROM pg_inherits JOIN parts ON inhparent = parts.oid
), tables AS (
    SELECT DISTINCT needed.name AS asked, c.oid, n.oid AS schema, quote_ident(nspname) AS schema_name, format('%%I.%%I', nspname, relname) AS name
      FROM needed CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'p')
       AND CASE needed.name WHEN '%[1]s' THEN c.oid IN (SELECT oid FROM home) WHEN '%[2]s' THEN c.oid IN (SELECT oid FROM parts) ELSE nspname = 'reactor' AND relname = needed.name END
), lacking AS (
    SELECT tables.name, string_agg(privilege, ', ' ORDER BY place) AS privileges, min(place) AS place
      FROM tables JOIN needed ON needed.name = asked WHERE NOT has_table_privilege(oid, privilege) GROUP BY tables.name
), grants AS (
    SELECT 0 AS place, 'USAGE ON SCHEMA ' || string_agg(DISTINCT schema_name, ', ') AS what FROM tables WHERE NOT has_schema_privilege(schema, 'USAGE')
    UNION ALL
    SELECT min(place), privileges || ' ON ' || string_agg(name, ', ' ORDER BY place, name) FROM lacking GROUP BY privileges
    UNION ALL
    SELECT 1000, 'EXECUTE ON ALL FUNCTIONS IN SCHEMA reactor'
     WHERE EXISTS (SELECT FROM needed WHERE name = '%[3]s') AND EXISTS (SELECT FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'reactor' AND NOT prosecdef AND NOT has_function_privilege(pg_proc.oid, 'EXECUTE'))
    UNION ALL
    SELECT 1001, 'EXECUTE ON FUNCTION ' || string_agg(pg_proc.oid::regprocedure::text, ', ' ORDER BY proname) FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
     WHERE EXISTS (SELECT FROM needed WHERE name = '%[4]s') AND nspname = 'reactor' AND NOT has_function_privilege(pg_proc.oid, 'EXECUTE')
       AND proname = ANY (%[5]s)
)
SELECT coalesce(string_agg('GRANT ' || what || ' TO ' || quote_ident(current_user), '; ' ORDER BY place, what), '') FROM grants WHERE what IS NOT NULL`, ofJobs, ofParts, ofFunctions, ofOrder, claimFunctions)
