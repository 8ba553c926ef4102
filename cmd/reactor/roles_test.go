package main

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// asUser returns a URL with another user.
func asUser(t *testing.T, database, user string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	q := u.Query()
	q.Del("user")
	u.RawQuery = q.Encode()
	return u.String()
}

// dropRoles drops what --roles has created, at the end of the test.
func dropRoles(t *testing.T, conn *pgx.Conn, users ...string) {
	t.Cleanup(func() {
		for _, name := range users {
			if _, err := conn.Exec(context.Background(), "DROP OWNED BY "+name+" CASCADE; DROP ROLE "+name); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestRolesOfAWholeDeployment: each program with the role that is for it and no other right, in a deployment with names
// of its own: the instance publishes, the producer inserts and cancels, the viewer sees it. The viewer cannot change
// anything, and nobody is a superuser.
func TestRolesOfAWholeDeployment(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, conn := bareDatabase(t, ctx)
	broker := broker(t)
	names := []string{"--schema=zr", "--jobs-table=public.zrjobs"}
	command := func(want int, user string, args ...string) string {
		t.Helper()
		code, output := call(t, nil, append(append(args, names...), "--database-url", asUser(t, database, user))...)
		if code != want {
			t.Fatalf("%v as %s ended with %d:\n%s", args, user, code, output)
		}
		return output
	}
	var admin string
	if err := conn.QueryRow(ctx, "SELECT current_user").Scan(&admin); err != nil {
		t.Fatal(err)
	}
	if output := command(0, admin, "migrate", "--roles", "--role-prefix=rwd"); !strings.Contains(output, "the roles rwd_owner, rwd_instance, rwd_producer, rwd_viewer have their rights") {
		t.Error(output)
	}
	dropRoles(t, conn, "rwd_owner", "rwd_instance", "rwd_producer", "rwd_viewer", "rwd_1", "rwd_2", "rwd_3", "rwd_4")
	exec(t, ctx, conn, `CREATE ROLE rwd_1 LOGIN IN ROLE rwd_owner; CREATE ROLE rwd_2 LOGIN IN ROLE rwd_instance; CREATE ROLE rwd_3 LOGIN IN ROLE rwd_producer; CREATE ROLE rwd_4 LOGIN IN ROLE rwd_viewer`)

	// The text does the same, and what is as it should be stays.
	text := command(0, "rwd_2", "migrate", "--roles", "--role-prefix=rwd", "--print")
	exec(t, ctx, conn, text)
	if output := command(2, admin, "migrate", "--print"); !strings.Contains(output, "--print prints the SQL of --roles") {
		t.Error(output)
	}
	if output := command(2, admin, "migrate", "--roles", "--role-prefix=X"); !strings.Contains(output, "--role-prefix is X, must consist of") {
		t.Error(output)
	}
	if output := command(1, "rwd_2", "migrate", "--roles", "--role-prefix=rwd2"); !strings.Contains(output, "--print") {
		t.Error(output)
	}
	command(0, "rwd_1", "migrate")

	sub := subscribe(t, ctx, broker, "roles/#")
	p := start(t, asUser(t, database, "rwd_2"), broker, append(names, "--retain=168h")...)
	producer := connect(t, ctx, asUser(t, database, "rwd_3"))
	exec(t, ctx, producer, "INSERT INTO zrjobs (topic, payload, fire_at, processed, processed_at) SELECT 'roles/' || n, 'p', now() + interval '200 ms', false, NULL FROM generate_series(1, 50) n")
	exec(t, ctx, producer, "SELECT zr.schedule('roles/key', 'p', now() + interval '1 hour', key => 'k')")
	if output := command(0, "rwd_4", "jobs", "list", "--topic=roles/key"); !strings.Contains(output, "roles/key") {
		t.Error(output)
	}
	exec(t, ctx, producer, "SELECT zr.fire_now('k')")
	exec(t, ctx, producer, "SELECT zr.schedule('roles/never', 'p', now() + interval '1 hour', key => 'c'), zr.cancel('c')")
	if err := sub.WaitDistinct(ctx, 51); err != nil {
		t.Fatal(err)
	}
	exec(t, ctx, conn, "INSERT INTO zr.schedules (name, every, topic) VALUES ('every', '1 second', 'roles/again')")
	if err := sub.WaitDistinct(ctx, 53); err != nil {
		t.Fatal(err)
	}
	if output := command(0, "rwd_4", "schedules", "list"); !strings.Contains(output, "roles/again") && !strings.Contains(output, "every") {
		t.Error(output)
	}
	command(0, "rwd_4", "status")
	command(0, "rwd_4", "migrate", "status")
	for _, args := range [][]string{{"jobs", "cancel", "1"}, {"schedules", "pause", "every"}, {"schedules", "delete", "every"}} {
		if output := command(1, "rwd_4", args...); !strings.Contains(output, "GRANT ") {
			t.Errorf("%v: %s", args, output)
		}
	}
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if output := p.Output(); strings.Contains(output, "permission denied") || strings.Contains(output, "42501") {
		t.Error(output)
	}
}
