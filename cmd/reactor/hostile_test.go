package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

// TestHostileProducer: a producer with exactly its role, who may create objects in the schema of the jobs as well, plants
// objects with the names of ours and floods our channels while others' jobs fall due. Those are published once and none early,
// nothing that was planted is used, the log stays short, and the flood is not answered by as many reads.
func TestHostileProducer(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, conn := bareDatabase(t, ctx)
	broker := broker(t)
	if code, output := call(t, nil, "migrate", "--roles", "--role-prefix=hst", "--database-url", database); code != 0 {
		t.Fatal(output)
	}
	dropRoles(t, conn, "hst_owner", "hst_instance", "hst_producer", "hst_viewer", "hst_1", "hst_2")
	exec(t, ctx, conn, "CREATE ROLE hst_1 LOGIN IN ROLE hst_instance; CREATE ROLE hst_2 LOGIN IN ROLE hst_producer; GRANT CREATE ON SCHEMA public TO hst_2")
	hostile := connect(t, ctx, asUser(t, database, "hst_2"))

	// Tables, types, functions, operators and casts: first in the search path of who does not pin it.
	exec(t, ctx, hostile, `
		CREATE TABLE public.caught (what text); GRANT ALL ON public.caught TO PUBLIC;
		CREATE TABLE public.deployment (jobs_schema name); INSERT INTO public.deployment VALUES ('nowhere');
		CREATE TABLE public.instances (id bigint); CREATE TABLE public.shards (shard smallint, owner bigint); CREATE TABLE public.lanes (lane int, owner bigint, epoch bigint);
		CREATE TABLE public.in_flight (lane int); CREATE TABLE public.retries (job_id bigint); CREATE TABLE public.failed_jobs (job_id bigint); CREATE TABLE public.pg_stat_activity (pid int); CREATE TABLE public.written (id int);
		CREATE FUNCTION public.catch(what text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO public.caught VALUES (what)';
		CREATE FUNCTION public.announce_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('announce'); RETURN NULL; END $$;
		CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('pg_notify'); END $$;
		CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('clock'); RETURN 'infinity'; END $$;
		CREATE FUNCTION public.is_later(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('<'); RETURN true; END $$;
		CREATE OPERATOR public.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = public.is_later);
		CREATE DOMAIN public.uuid AS text; CREATE TYPE public.ids AS (id bigint);
		CREATE FUNCTION public.as_ids(bigint) RETURNS public.ids LANGUAGE plpgsql AS $$ BEGIN PERFORM public.catch('cast'); RETURN ROW($1); END $$;
		CREATE CAST (bigint AS public.ids) WITH FUNCTION public.as_ids(bigint) AS IMPLICIT`)

	judge := subscribe(t, ctx, broker, "victim/#")
	p := start(t, asUser(t, database, "hst_1")+"&search_path=public,pg_catalog", broker, "--http-addr=127.0.0.1:0", "--no-migrate", "--log-level=debug")
	address := "http://" + httpAddress(t, ctx, p)
	awaitReady(t, ctx, address+"/readyz", "ready", 200, "")
	reads := func() int {
		_, body := get(t, ctx, address+"/metrics")
		found := regexp.MustCompile(`(?m)^reactor_loads_total (\d+)`).FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("no reactor_loads_total in\n%s", body)
		}
		n, _ := strconv.Atoi(found[1])
		return n
	}
	before, lines := reads(), strings.Count(p.Output(), "\n")

	victim := connect(t, ctx, database)
	const jobs, floods, each = 200, 40, 500
	for range floods {
		exec(t, ctx, victim, "INSERT INTO jobs (topic, fire_at) SELECT 'victim/' || n, clock_timestamp() + n * interval '5 ms' FROM generate_series(1, $1) n", jobs/floods)
		exec(t, ctx, hostile, `SELECT pg_catalog.pg_notify(channel, junk || ' ' || n) FROM generate_series(1, $1::int) n, unnest('{reactor_jobs,reactor_membership,reactor_probe}'::text[]) channel,
			unnest(ARRAY['', 'junk', '1 9223372036854775807 0 -1', '-9223372036854775808 9223372036854775807 -9223372036854775808 -1', repeat('x', 500)]) junk`, each/15)
	}
	if err := judge.WaitDistinct(ctx, jobs); err != nil {
		t.Fatal(err)
	}
	for {
		var left int
		if err := conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM public.jobs WHERE NOT processed) + (SELECT count(*) FROM reactor.in_flight)").Scan(&left); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			break
		}
	}
	if n := reads() - before; n > floods*each/10 {
		t.Errorf("%d notifications were answered by %d reads", floods*each, n)
	} else {
		t.Logf("%d notifications, %d reads", floods*each, n)
	}
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.Output())
	}
	if n := strings.Count(p.Output(), "\n") - lines; n > 60 {
		t.Errorf("the log has %d more lines", n)
	}
	var caught *string
	if err := conn.QueryRow(ctx, "SELECT string_agg(DISTINCT what, ', ') FROM public.caught").Scan(&caught); err != nil {
		t.Fatal(err)
	}
	if caught != nil {
		t.Errorf("what was planted was called: %s", *caught)
	}
	expected, err := check.ExpectedFromDB(ctx, conn, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(expected, judge.Received(), check.Config{}).Err(); err != nil {
		t.Error(err)
	}
}
