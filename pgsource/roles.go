package pgsource

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Roles creates the roles of a deployment, each with the rights that it needs and no more:
//
//   - PREFIX_owner owns the tables, and migrates.
//   - PREFIX_instance publishes: for reactor run.
//   - PREFIX_producer schedules and cancels jobs: for applications.
//   - PREFIX_viewer reads: for reactor status, jobs list and schedules list, and for dashboards.
//
// None of them can log in. Users get them with GRANT, and have passwords of their own.
type Roles struct {
	// DatabaseURL is that of a superuser, or of the owner of the database, who needs CREATEROLE.
	DatabaseURL string
	Names
	// RolePrefix is what the names begin with: at most 40 of a to z, 0 to 9 and _. Defaults to the name of the
	// schema. Roles belong to the server, so deployments in several of its databases share them if their prefixes
	// are the same.
	RolePrefix string
}

var roleNames = []string{"owner", "instance", "producer", "viewer"}

// List returns the names of the roles: of the owner, the instances, producers and viewers.
func (r Roles) List() (list []string) {
	prefix := r.RolePrefix
	setDefault(&prefix, r.Schema)
	setDefault(&prefix, naming.DefaultSchema)
	for _, name := range roleNames {
		list = append(list, prefix+"_"+name)
	}
	return list
}

var rolePrefix = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// SQL returns the statement that Create runs, for somebody who runs it with psql. It can be run as often as you like. A
// field that cannot be used is a *driver.ConfigError.
func (r Roles) SQL() (string, error) {
	checked, err := r.Names.check()
	if err != nil {
		return "", err
	}
	if r.RolePrefix != "" && (!rolePrefix.MatchString(r.RolePrefix) || strings.HasPrefix(r.RolePrefix, "pg_")) {
		return "", &driver.ConfigError{Field: "RolePrefix", Value: r.RolePrefix, Problem: "must consist of a to z, 0 to 9 and _, at most 40 of them, and begin neither with a digit nor with pg_"}
	}
	values := make([]string, len(ofTables))
	for i, t := range ofTables {
		values[i] = fmt.Sprintf("('%s', '%s', '%s', '%s')", t.table, t.instance, t.producer, t.viewer)
	}
	// The names of roles come last, because those of the deployment are not to be put into them.
	replace := []string{"{table}", ofJobs, "{parts}", ofParts, "{tables}", strings.Join(values, ",\n            ")}
	for i, name := range r.List() {
		replace = append(replace, "{"+roleNames[i]+"}", name)
	}
	return strings.NewReplacer(replace...).Replace(checked.In(rolesSQL)), nil
}

// Create creates the roles that are missing, makes the owner the owner of the tables and functions, and gives each role
// exactly its rights. It changes nothing that is as it should be, and may run while instances do.
//
// An error is one line that says what to do, and unwraps to the error of pgx. It has changed nothing then.
func (r Roles) Create(ctx context.Context) error {
	text, err := r.SQL()
	if err != nil {
		return err
	}
	return withConnection(ctx, r.DatabaseURL, r.Names, false, func(conn *pgx.Conn) error {
		err := patiently(ctx, conn, func(tx pgx.Tx) error { return execVerbatim(ctx, tx, text) })
		if sqlState(err) == pgerrcode.InsufficientPrivilege {
			return explained(err, "this role may not create or change the roles (%s): run `reactor migrate up --roles` as a superuser or as the owner of the database with CREATEROLE, or have somebody run the SQL that --print shows", statementText(err))
		}
		return err
	})
}

// rolesSQL is one statement, so that it is done as a whole or not at all. Everything that it changes belongs to this
// deployment, or has the name of one of its roles.
//
// Who owned the tables before becomes a member of the owner's role. It would lose its rights with the ownership, and
// instances may be running as that role.
const rolesSQL = `
DO $roles$
DECLARE
    home  pg_catalog.name;
    owner pg_catalog.oid;
    one   record;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT jobs_schema INTO home FROM reactor.deployment;
    IF home IS NULL OR to_regclass(format('%I.jobs', home)) IS NULL THEN
        RAISE EXCEPTION 'there is no table of jobs' USING ERRCODE = 'undefined_table', HINT = 'apply the schema first';
    END IF;

    FOR one IN SELECT unnest('{{owner},{instance},{producer},{viewer}}'::text[]) AS role LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = one.role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', one.role);
        ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = one.role AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication)) THEN
            RAISE EXCEPTION 'there is a role % already, and it may more than a role of this name should', quote_ident(one.role)
                USING ERRCODE = 'duplicate_object', HINT = 'give another --role-prefix';
        END IF;
    END LOOP;
    owner := (SELECT oid FROM pg_roles WHERE rolname = '{owner}');
    FOR one IN
        SELECT rolname AS role FROM pg_roles WHERE NOT rolsuper AND oid <> owner AND oid IN (
               SELECT oid FROM pg_roles WHERE rolname = current_user
               UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'reactor'
               UNION SELECT pubowner FROM pg_publication WHERE pubname IN ('reactor_jobs_inserted', 'reactor_jobs_updated')
               UNION SELECT relowner FROM pg_class WHERE oid = to_regclass(format('%I.jobs', home))::oid OR relnamespace = 'reactor'::regnamespace)
           AND NOT EXISTS (SELECT FROM pg_auth_members WHERE roleid = owner AND member = pg_roles.oid AND NOT admin_option)
    LOOP
        EXECUTE format('GRANT %I TO %I', '{owner}', one.role);
    END LOOP;

    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', home, '{owner}');
    IF (SELECT nspowner FROM pg_namespace WHERE nspname = 'reactor') <> owner THEN
        EXECUTE 'ALTER SCHEMA reactor OWNER TO {owner}';
    END IF;
    FOR one IN
        WITH RECURSIVE tree (oid) AS (
            SELECT to_regclass(format('%I.jobs', home))::oid UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
        )
        SELECT format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, '{owner}') AS change FROM pg_class c
         WHERE relkind IN ('r', 'p') AND relowner <> owner AND (relnamespace = 'reactor'::regnamespace OR oid IN (SELECT oid FROM tree))
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, '{owner}') FROM pg_proc
         WHERE pronamespace = 'reactor'::regnamespace AND proowner <> owner
        UNION ALL
        -- A superuser may give a publication to anybody, others only what is theirs, and to a role with CREATE on the database.
        SELECT format('ALTER PUBLICATION %I OWNER TO %I', pubname, '{owner}') FROM pg_publication
         WHERE pubname IN ('reactor_jobs_inserted', 'reactor_jobs_updated') AND pubowner <> owner
           AND ((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                OR pg_has_role(pubowner, 'USAGE') AND has_database_privilege('{owner}', current_database(), 'CREATE'))
    LOOP
        EXECUTE one.change;
    END LOOP;

    FOR one IN SELECT unnest('{{owner},{instance},{producer},{viewer}}'::text[]) AS role LOOP
        IF NOT has_database_privilege(one.role, current_database(), 'CONNECT') THEN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), one.role);
        END IF;
        IF one.role <> '{owner}' THEN
            EXECUTE format('REVOKE ALL ON SCHEMA reactor, %I FROM %I', home, one.role);
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA reactor FROM %I', one.role);
            EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reactor FROM %I', one.role);
            EXECUTE format('GRANT USAGE ON SCHEMA reactor, %I TO %I', home, one.role);
        END IF;
    END LOOP;
    FOR one IN
        WITH RECURSIVE tree (oid, part) AS (
            SELECT to_regclass(format('%I.jobs', home))::oid, false UNION SELECT inhrelid, true FROM pg_inherits JOIN tree ON inhparent = tree.oid
        ), needed (name, instance, producer, viewer) AS (VALUES
            {tables}
        ), each_role AS (
            SELECT name, '{instance}' AS role, instance AS privileges FROM needed
            UNION ALL SELECT name, '{producer}', producer FROM needed
            UNION ALL SELECT name, '{viewer}', viewer FROM needed
        )
        SELECT place.oid::regclass AS place, role, privileges
          FROM each_role CROSS JOIN LATERAL (
               SELECT oid FROM tree WHERE name = CASE WHEN part THEN '{parts}' ELSE '{table}' END
               UNION ALL SELECT oid FROM pg_class WHERE relnamespace = 'reactor'::regnamespace AND relname = name AND relkind = 'r') AS place
    LOOP
        EXECUTE format('REVOKE ALL ON TABLE %s FROM %I', one.place, one.role);
        IF one.privileges <> '' THEN
            EXECUTE format('GRANT %s ON TABLE %s TO %I', one.privileges, one.place, one.role);
        END IF;
    END LOOP;
    EXECUTE 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA reactor TO {instance}';
    FOR one IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'reactor'::regnamespace AND prokind = 'f' AND NOT prosecdef AND prorettype <> 'trigger'::regtype LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {producer}', one.name);
    END LOOP;
END;
$roles$;`
