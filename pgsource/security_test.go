package pgsource_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// plant lets a role that may create in the schema of jobs create functions and operators that take
// exactly the types of other statements' arguments, so that they are preferred to PostgreSQL's own
// if the search path leads to them. Each records its call in the table caught.
func (b *bench) plant(url string) {
	b.t.Helper()
	attacker := connect(b.t, b.ctx, url)
	run := func(sql string) {
		b.t.Helper()
		if _, err := attacker.Exec(b.ctx, sql); err != nil {
			b.t.Fatalf("%s: %v", sql, err)
		}
	}
	run(`CREATE TABLE public.caught (what text, by text DEFAULT session_user);
		GRANT ALL ON public.caught TO PUBLIC;
		CREATE FUNCTION public.catch(what text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO public.caught VALUES (what, session_user)';`)
	fn := func(name, args, returns, result string) {
		run("CREATE FUNCTION public." + name + "(" + args + ") RETURNS " + returns +
			" LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('" + name + "(" + args + ")'); RETURN " + result + "; END $$")
	}
	for _, args := range []string{"text, bigint, bigint, bigint", "text, bigint, bigint, numeric", "text, name", "text, regclass", "text, text", "text, oid"} {
		fn("format", args, "text", "''")
	}
	fn("set_config", "text, name, boolean", "text", "''")
	fn("array_position", "name[], name", "int", "1")
	fn("has_schema_privilege", "name, name", "boolean", "true")
	fn("has_function_privilege", "name, name", "boolean", "true")
	fn("to_regclass", "name", "regclass", "NULL")
	fn("quote_ident", "name", "text", "''")
	fn("octet_length", "varchar", "int", "1")
	fn("left", "varchar, int", "text", "''")
	for _, types := range []string{"text", "bigint", "name", "timestamptz", "oid"} {
		run("CREATE FUNCTION public.step(" + types + "[], " + types + ") RETURNS " + types + "[] LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('array_agg'); RETURN $1; END $$")
		run("CREATE AGGREGATE public.array_agg(" + types + ") (SFUNC = public.step, STYPE = " + types + "[], INITCOND = '{}')")
	}
	// Domains, named like types that are no words of the grammar.
	run("CREATE FUNCTION public.checked(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch(what); RETURN true; END $$")
	for _, name := range []string{"name", "regclass", "text", "oid", "uuid", "timestamptz", "int8", "bool"} {
		run("CREATE DOMAIN public." + name + " AS pg_catalog." + name + " CHECK (public.checked('type " + name + "'))")
	}
	operator := func(name, left, right, returns, result string) {
		f := "op_" + strings.NewReplacer("=", "eq", "<", "lt", ">", "gt", "|", "or", "/", "div", "*", "mul", "+", "add", "-", "sub", "&", "and", "~", "m", "!", "not", "^", "pow").Replace(name) + "_" +
			strings.NewReplacer("[]", "s", " ", "").Replace(left+"_"+right)
		run("CREATE FUNCTION public." + f + "(" + left + ", " + right + ") RETURNS " + returns + " LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('" + name + "(" + left + ", " + right + ")'); RETURN " + result + "; END $$")
		run("CREATE OPERATOR public." + name + " (LEFTARG = " + left + ", RIGHTARG = " + right + ", FUNCTION = public." + f + ")")
	}
	for _, o := range [][2]string{{"oid", "regclass"}, {"regclass", "oid"}, {"oid", "regproc"}, {"name", "varchar"}, {"text", "varchar"}, {"smallint", "numeric"}, {"bigint", "numeric"}, {"integer", "numeric"}, {"bigint[]", "text"}, {"oid", "bigint"}} {
		operator("=", o[0], o[1], "boolean", "true")
	}
	operator("/", "interval", "integer", "interval", "'1 hour'")
	operator("/", "numeric", "integer", "numeric", "1")
	operator("*", "numeric", "integer", "numeric", "1")
	operator("*", "interval", "numeric", "interval", "'1 hour'")
	operator("^", "integer", "integer", "double precision", "1")
	operator("<", "timestamptz", "interval", "boolean", "true")
	operator("||", "text", "bigint", "text", "''")
	operator("||", "name[]", "name", "name[]", "$1")
	operator("||", "name", "text", "text", "''")
	operator("||", "text", "oid", "text", "''")
	operator("&", "integer", "bigint", "integer", "1")
	operator("<>", "name", "text", "boolean", "true")
	operator("+", "bigint", "numeric", "numeric", "1")
	operator("-", "timestamptz", "text", "timestamptz", "now()")
}

// plantVariants plants what plant does not, without knowing the statements: for every function that our
// SQL calls, and every operator of PostgreSQL, variants that a call would be resolved to whose arguments
// have not exactly the types of PostgreSQL's own. That is the case where an argument is cast implicitly,
// or left to a default, or the function takes any type. Most statements of a test are such calls as well.
func (b *bench) plantVariants(url string) {
	b.t.Helper()
	attacker := connect(b.t, b.ctx, url)
	run := func(sql string) {
		b.t.Helper()
		if _, err := attacker.Exec(b.ctx, sql); err != nil {
			b.t.Fatal(err)
		}
	}
	called := map[string]bool{}
	for _, text := range sqlTexts(b.t) {
		for _, call := range regexp.MustCompile(`\b([a-z_][a-z0-9_]*)\(`).FindAllStringSubmatch(text, -1) {
			called[call[1]] = true
		}
	}
	run("SET search_path = pg_catalog, pg_temp; SET standard_conforming_strings = on")
	run(`DO $do$
DECLARE
    f    record;
    args text;
    n    integer := 0;
BEGIN
    FOR f IN
        WITH own AS (
            SELECT proname, prorettype::regtype AS result, provariadic, pronargdefaults, proargtypes::oid[] AS types, pronargs
              FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND pronargs BETWEEN 1 AND 6
               AND proname = ANY ('{` + strings.Join(slices.Sorted(maps.Keys(called)), ",") + `}') AND prorettype NOT IN ('internal'::regtype, 'trigger'::regtype)
        ), variants AS (
            -- an argument that is cast implicitly
            SELECT proname, result, ARRAY(SELECT CASE WHEN place = at THEN castsource ELSE type END FROM unnest(types) WITH ORDINALITY AS t (type, place) ORDER BY place) AS types
              FROM own CROSS JOIN LATERAL unnest(types) WITH ORDINALITY AS a (target, at) JOIN pg_cast ON casttarget = target AND castcontext = 'i' AND castsource <> casttarget
            UNION ALL -- a literal, which is rather text than anything else, and arguments that are left to their defaults
            SELECT proname, result, ARRAY(SELECT CASE WHEN place = at THEN 'text'::regtype::oid ELSE type END FROM unnest(types) WITH ORDINALITY AS t (type, place) WHERE place <= pronargs - given ORDER BY place)
              FROM own CROSS JOIN LATERAL generate_series(1, pronargs) AS at CROSS JOIN LATERAL generate_series(0, pronargdefaults) AS given
            UNION ALL
            SELECT proname, result, ARRAY(SELECT type FROM unnest(types) WITH ORDINALITY AS t (type, place) WHERE place <= pronargs - given ORDER BY place)
              FROM own CROSS JOIN LATERAL generate_series(1, pronargdefaults) AS given
            UNION ALL -- any type
            SELECT proname, result, ARRAY(SELECT CASE WHEN type IN ('anyelement'::regtype, 'anynonarray'::regtype, 'anycompatible'::regtype, '"any"'::regtype) THEN actual
                                                      WHEN type IN ('anyarray'::regtype, 'anycompatiblearray'::regtype) THEN typarray ELSE type END
                                            FROM unnest(types) WITH ORDINALITY AS t (type, place) ORDER BY place)
              FROM own CROSS JOIN (SELECT oid AS actual, typarray FROM pg_type WHERE oid IN ('text'::regtype, 'name'::regtype, 'int8'::regtype, 'oid'::regtype, 'timestamptz'::regtype, 'jsonb'::regtype)) AS actual
            UNION ALL -- any number of arguments of any type
            SELECT proname, result, array_cat(types[0:0], (SELECT array_agg(CASE WHEN place = 1 THEN types[0] ELSE actual END ORDER BY place) FROM generate_series(1, 1 + more) AS place))
              FROM own CROSS JOIN unnest('{text,name,int8,numeric,oid,regclass}'::regtype[]::oid[]) AS actual CROSS JOIN generate_series(1, 6) AS more WHERE provariadic <> 0
        )
        SELECT DISTINCT proname, CASE WHEN result::text LIKE 'any%' THEN 'text'::regtype ELSE result END AS result, types FROM variants
         WHERE cardinality(types) > 0 AND NOT EXISTS (SELECT FROM own WHERE own.proname = variants.proname AND own.types::text = variants.types::text)
    LOOP
        SELECT string_agg(format_type(type, NULL), ', ' ORDER BY place) INTO args FROM unnest(f.types) WITH ORDINALITY AS t (type, place);
        BEGIN
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', f.proname, args, f.result,
                format('BEGIN PERFORM public.catch(%L); RETURN NULL; END', format('%s(%s)', f.proname, args)));
            n := n + 1;
        EXCEPTION WHEN duplicate_function OR invalid_function_definition OR feature_not_supported OR datatype_mismatch THEN
            NULL;
        END;
    END LOOP;
    ASSERT n > 500, n;
END;
$do$`)
	run(`DO $do$
DECLARE
    o      record;
    result pg_catalog.regtype;
    n      integer := 0;
BEGIN
    FOR o IN
        SELECT name, l, r FROM unnest('{=,<>,<,<=,>,>=,||,+,-,*,/,%,&,?,~,!~,^@,->>}'::text[]) AS name,
               unnest('{bool,int2,int4,int8,numeric,float8,text,varchar,name,"\"char\"",oid,regclass,regproc,timestamptz,timestamp,interval,jsonb,text[],name[],oid[],int2vector}'::regtype[]) AS l,
               unnest('{bool,int2,int4,int8,numeric,float8,text,varchar,name,"\"char\"",oid,regclass,regproc,timestamptz,timestamp,interval,jsonb,text[],name[],oid[],int2vector}'::regtype[]) AS r
         WHERE NOT EXISTS (SELECT FROM pg_operator WHERE oprname = name AND oprleft = l AND oprright = r)
    LOOP
        BEGIN
            EXECUTE format('SELECT pg_typeof(NULL::%s OPERATOR(pg_catalog.%s) NULL::%s)', o.l, o.name, o.r) INTO result;
        EXCEPTION WHEN OTHERS THEN
            CONTINUE; -- PostgreSQL has none that such a call could mean
        END;
        BEGIN
            n := n + 1;
            EXECUTE format('CREATE FUNCTION public.variant_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', n, o.l, o.r, result, format('BEGIN PERFORM public.catch(%L); RETURN NULL; END', format('%s(%s, %s)', o.name, o.l, o.r)));
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.variant_%s)', o.name, o.l, o.r, n);
        EXCEPTION WHEN duplicate_function THEN
            NULL;
        END;
    END LOOP;
    ASSERT n > 300, n;
END;
$do$`)
	run("RESET search_path")
}

// sqlTexts are the texts of package sql, by name.
func sqlTexts(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../sql/*.sql")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	texts := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	return texts
}

// caught returns which of them were called.
func (b *bench) caught() []string {
	b.t.Helper()
	rows, err := b.conn.Query(b.ctx, "SELECT what || ' by ' || by FROM public.caught")
	if err != nil {
		b.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// TestPlanted: a producer who may create in the schema of jobs cannot run code as another role, not
// even if the search path has that schema before PostgreSQL's own.
func TestPlanted(t *testing.T) {
	for _, path := range []string{"public", "public,pg_catalog"} {
		t.Run(path, func(t *testing.T) { testPlanted(t, path) })
	}
}

func testPlanted(t *testing.T, path string) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.exec("GRANT CREATE ON SCHEMA public TO " + role + "; GRANT INSERT, SELECT ON jobs TO " + role)
	b.plant(url)

	// The traps work: an unqualified statement calls them.
	b.exec("SELECT format('%s %s %s', 1::bigint, 2::bigint, 3::bigint), 1::oid = 'jobs'::regclass")
	if n := len(b.caught()); n != 2 {
		t.Fatalf("caught %v: the trap does not work", b.caught())
	}
	b.exec("TRUNCATE caught")

	// The source.
	b.url = with(t, b.url, "search_path", path)
	b.start(b.url)
	b.wholePath()
	if err := b.Purge(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.listenOnce()
	if list := b.caught(); len(list) > 0 {
		t.Errorf("the source has called %v", list)
	}
	// The triggers, as a producer and as a superuser who tries a failed job again.
	b.insert(1, "1 second")
	b.exec("UPDATE jobs SET processed = false, fire_at = now()")
	if list := b.caught(); len(list) > 0 {
		t.Errorf("the triggers have called %v", list)
	}
	// Down and up, and up from version 2.
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	for range schema.Migrations {
		plan, err := pgsource.PlanDown(b.ctx, b.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pgsource.MigrateDown(b.ctx, b.url, plan); err != nil {
			t.Fatal(err)
		}
	}
	b.migrateUp(b.url)
	if _, err := pgsource.MigrateStatus(b.ctx, b.url); err != nil {
		t.Fatal(err)
	}
	if list := b.caught(); len(list) > 0 {
		t.Errorf("the migration has called %v", list)
	}
}

// TestPlantedBeforeAnUpgrade: the tables of version 2 exist, and so do the traps.
func TestPlantedBeforeAnUpgrade(t *testing.T) {
	b := versionTwo(t, "public")
	role, url := b.role("")
	b.exec("GRANT CREATE ON SCHEMA public TO " + role)
	b.exec("INSERT INTO jobs (topic, fire_at) VALUES ('t', now())")
	b.plant(url)
	b.migrateUp(with(t, b.url, "search_path", "public,pg_catalog"))
	if list := b.caught(); len(list) > 0 {
		t.Errorf("the migration has called %v", list)
	}
}

// TestPlantedVariants: the text of the schema calls PostgreSQL's own functions and operators only, whatever
// there is in the schema of jobs; and what it creates calls those for ever.
func TestPlantedVariants(t *testing.T) {
	for _, path := range []string{"public", "public,pg_catalog"} {
		for _, version := range []int{0, 2, 5} {
			t.Run(fmt.Sprintf("%s,%d", path, version), func(t *testing.T) {
				t.Parallel()
				testPlantedVariants(t, path, version)
			})
		}
	}
}

func testPlantedVariants(t *testing.T, path string, version int) {
	var b *bench
	switch version {
	case 0:
		b = examine(t, testkit.NewDatabase(t))
		b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	case 2:
		b = versionTwo(t, "public")
	case 5:
		b = versionFive(t)
	}
	role, url := b.role("")
	b.exec("GRANT CREATE ON SCHEMA public TO " + role)
	b.plant(url)
	b.plantVariants(url)

	// The traps work.
	b.exec("SELECT format('%I', 'a'::text), jsonb_path_exists('{}'::jsonb, '$')")
	if n := len(b.caught()); n != 2 {
		t.Fatalf("caught %v: the trap does not work", b.caught())
	}
	b.exec("TRUNCATE caught")

	calm := func(what string) {
		t.Helper()
		if list := b.caught(); len(list) > 0 {
			t.Errorf("%s has called %v", what, list)
		}
	}
	migrated := with(t, b.url, "search_path", path)
	b.migrateUp(migrated)
	calm("the migration")
	if err := pgsource.AddSchedule(b.ctx, migrated, pgsource.Schedule{Name: "s", Every: time.Minute, Message: pgsource.ScheduleMessage{Topic: "t", Headers: map[string]string{"a": "b"}}}); err != nil {
		t.Error(err)
	}
	calm("the table of schedules")
	b.exec(`SELECT FROM reactor.schedule('t', 'p', key => 'k', qos => 1, content_type => 'c', headers => '{"a": "b"}', ordering_key => 'o')`)
	for _, call := range []string{"cancel('k'::text)", "cancel_topic('t')", "fire_now(1::bigint)", "reschedule(1::bigint, now())", "retry(1::bigint)", "run_schedule('s')", "insert_jobs('[]')"} {
		b.exec("SELECT reactor." + call)
		calm(call)
	}
	if err := pgsource.DeleteSchedule(b.ctx, migrated, "s"); err != nil {
		t.Error(err)
	}
	if err := pgsource.ConvertToPartitions(b.ctx, migrated, 24*time.Hour); err != nil {
		t.Error(err)
	}
	calm("the conversion to partitions")
	if err := (pgsource.Partitions{DatabaseURL: migrated, Ahead: 9}).Maintain(b.ctx); err != nil {
		t.Error(err)
	}
	b.exec(`INSERT INTO jobs (topic, fire_at, headers) VALUES ('t', now(), '{"a": "b"}')`)
	calm("the partitions")
	for range schema.Migrations {
		plan, err := pgsource.PlanDown(b.ctx, migrated)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pgsource.MigrateDown(b.ctx, migrated, plan); err != nil {
			t.Fatal(err)
		}
	}
	calm("undoing the versions")
}

// TestShadowedRulesAreExchanged: a rule that was made with somebody's function is made again.
func TestShadowedRulesAreExchanged(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec(`CREATE FUNCTION public.jsonb_path_exists(jsonb, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END'`)
	const rule = `"headers must be a JSON object of strings, at most 32 KiB"`
	for _, table := range []string{"public.jobs", "reactor.schedules"} {
		b.exec("ALTER TABLE " + table + " DROP CONSTRAINT " + rule + ", ADD CONSTRAINT " + rule + " CHECK (NOT public.jsonb_path_exists(headers, 'x'::text))")
	}
	// Of those that are as they should be, none is made again: the table would have to be validated again.
	b.exec(`ALTER TABLE jobs VALIDATE CONSTRAINT "qos must be 0, 1 or 2"`)
	bound := func() int {
		return b.count("SELECT count(*) FROM pg_depend WHERE classid = 'pg_constraint'::regclass AND refobjid = 'public.jsonb_path_exists(jsonb, text)'::regprocedure")
	}
	if bound() != 2 {
		t.Fatal("the rules are not what this test is about")
	}
	b.exec("DELETE FROM reactor.schema_version WHERE version_id = 6")
	b.migrateUp(b.url)
	if n := bound(); n != 0 {
		t.Errorf("%d rules call the function", n)
	}
	if n := b.count("SELECT count(*) FROM pg_constraint WHERE conname = 'qos must be 0, 1 or 2' AND conrelid = 'jobs'::regclass AND convalidated"); n != 1 {
		t.Error("a rule that was right is not valid any more")
	}
	for _, sql := range []string{"INSERT INTO jobs (topic, fire_at, headers) VALUES ('t', now(), '[1]')", "INSERT INTO reactor.schedules (name, every, topic, headers) VALUES ('s', '1 min', 't', '[1]')"} {
		if _, err := b.conn.Exec(b.ctx, sql); err == nil || !strings.Contains(err.Error(), "headers must be") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// TestRowSecurity: a policy that silently hides rows is an error.
func TestRowSecurity(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.exec("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY a_part ON jobs FOR ALL TO " + role + " USING (topic LIKE 'ours/%')")
	if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.Contains(why, `row-level security hides rows of "public"."jobs"`) || !strings.Contains(why, "BYPASSRLS") {
		t.Error(why)
	}
	b.exec("ALTER ROLE " + role + " BYPASSRLS")
	b.start(url)
	b.wholePath()
	b.exec("ALTER ROLE " + role + " NOBYPASSRLS")

	// The owner is not concerned, unless it is forced to be.
	b.exec("GRANT CREATE ON SCHEMA public TO " + role + "; ALTER TABLE jobs OWNER TO " + role)
	open(t, b.ctx, pgsource.Config{DatabaseURL: url}).Close()
	b.exec("ALTER TABLE jobs FORCE ROW LEVEL SECURITY")
	if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.Contains(why, "row-level security") {
		t.Error(why)
	}
	b.exec("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY; ALTER TABLE jobs DISABLE ROW LEVEL SECURITY; ALTER TABLE jobs OWNER TO CURRENT_USER")
	b.grant(role)

	// A policy must not hide rows of our own tables either.
	for _, name := range []string{"reactor.lanes", "reactor.deployment"} {
		b.exec("ALTER TABLE " + name + " ENABLE ROW LEVEL SECURITY")
		if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.Contains(why, "row-level security hides rows of "+name) {
			t.Error(why)
		}
		b.exec("ALTER TABLE " + name + " DISABLE ROW LEVEL SECURITY")
	}
}

// TestRowSecurityWhileRunning: a policy that appears later is an error as well.
func TestRowSecurityWhileRunning(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.start(url)
	ids := b.insert(1, "-1 second")
	b.exec("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY")
	if _, err := b.LoadIDs(b.ctx, driver.AllShards, ids, driver.DistantPast, b.now(), true); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("loading says %v", err)
	}
}

// TestNoMD5: under FIPS there is no md5(). The one place that calls it, to keep the name of an old
// deployment, works without.
func TestNoMD5(t *testing.T) {
	comment, texts := regexp.MustCompile("(--|//).*"), map[string]string{}
	for _, m := range schema.Migrations {
		texts["version "+m.Name] = m.Up + m.Down
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if text, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		} else if !strings.HasSuffix(name, "_test.go") {
			texts[name] = string(text)
		}
	}
	for name, text := range texts {
		calls, guarded := strings.Count(comment.ReplaceAllString(text, ""), "md5("), strings.Count(text, "md5(name || (SELECT oid")
		if calls != guarded {
			t.Errorf("%s calls md5 %d times, %d of them guarded", name, calls, guarded)
		}
	}
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE; REVOKE EXECUTE ON FUNCTION md5(text), md5(bytea) FROM PUBLIC")
	owner, url := b.role("")
	b.exec("DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO " + owner + "', current_database()); END $$; GRANT CREATE ON SCHEMA public TO " + owner)
	b.migrateUp(url)
	b.start(url)
	b.wholePath()
}

// TestLeastPrivileges: a role with the rights that the README names.
func TestLeastPrivileges(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	// Where nothing is pending it does not even wait for somebody who migrates.
	b.exec("SELECT pg_advisory_lock($1)", int64(0x6d696772617465))
	if names := b.migrateUp(url); len(names) != 0 {
		t.Errorf("applied %v", names)
	}
	b.exec("SELECT pg_advisory_unlock_all()")
	b.start(url)
	b.wholePath()
	b.listenOnce()

	// With something pending it says what, and who can do it.
	b.exec("DELETE FROM reactor.schema_version WHERE version_id = 3")
	_, err := pgsource.MigrateUp(b.ctx, url)
	if err == nil || !strings.Contains(err.Error(), "lacks version 3 (identity)") || !strings.Contains(err.Error(), "as the owner of the database") || strings.Contains(err.Error(), "\n") {
		t.Errorf("migrating says %v", err)
	}
	// Without rights it is told which.
	b.exec("REVOKE UPDATE ON reactor.lanes FROM " + role)
	if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.HasSuffix(why, "GRANT UPDATE ON reactor.lanes TO "+role) {
		t.Error(why)
	}
	// The same where new functions are nobody's.
	b.exec("GRANT UPDATE ON reactor.lanes TO " + role + "; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA reactor FROM PUBLIC")
	why := b.refused(pgsource.Config{DatabaseURL: url})
	_, grant, found := strings.Cut(why, ": as their owner run ")
	if !found || !strings.HasPrefix(grant, "GRANT EXECUTE ON FUNCTION reactor.is_outdated(") {
		t.Fatal(why)
	}
	b.exec(grant)
	b.start(url)
	if ids := b.ordered("k", 1); len(b.late(ids)) != 1 {
		t.Error("a job with an ordering key is not due")
	}
	// A migration grants them to who may claim.
	b.exec("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA reactor FROM " + role + "; DELETE FROM reactor.schema_version WHERE version_id = 6")
	b.migrateUp(b.url)
	b.start(url)
}

// TestTooManyConnections: too many connections are refused before the pool opens them.
func TestTooManyConnections(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("CONNECTION LIMIT 8")
	b.grant(role)
	if why := b.refused(pgsource.Config{DatabaseURL: url, MaxConns: 6}); !strings.Contains(why, "needs 9 connections") {
		t.Error(why)
	}
	open(t, b.ctx, pgsource.Config{DatabaseURL: url, MaxConns: 5})
}

// TestInstanceCannotBecomeTheOwner: the function that runs with the rights of the owner creates nothing but
// what it is for, whatever the record says that an instance may change.
func TestInstanceCannotBecomeTheOwner(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t)) // migrated by a superuser
	role, url := b.role("")
	b.grant(role)
	b.exec("GRANT EXECUTE ON FUNCTION reactor.bind_ordering() TO " + role)
	conn := connect(t, b.ctx, url)
	for _, schema := range []string{
		"x$$;ALTER ROLE " + role + " SUPERUSER;SELECT $$",
		"x\"$$;ALTER ROLE " + role + " SUPERUSER;SELECT $$",
	} {
		if _, err := conn.Exec(b.ctx, "UPDATE reactor.deployment SET jobs_schema = $1", schema); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Exec(b.ctx, "SET check_function_bodies = off; SELECT reactor.bind_ordering()")
		if b.count("SELECT count(*) FROM pg_roles WHERE rolname = $1 AND rolsuper", role) > 0 {
			t.Fatalf("%s is a superuser now", role)
		}
		if err == nil {
			t.Errorf("the functions were made for the schema %q", schema)
		}
	}
}
