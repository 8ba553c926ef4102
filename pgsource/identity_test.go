package pgsource_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// name returns the name of the deployment.
func (b *bench) name() (name string) {
	b.t.Helper()
	if err := b.conn.QueryRow(b.ctx, "SELECT name FROM reactor.deployment").Scan(&name); err != nil {
		b.t.Fatal(err)
	}
	return name
}

// reopen opens another source and returns what it logs.
func (b *bench) reopen(cfg pgsource.Config) (*pgsource.Source, string) {
	b.t.Helper()
	var log strings.Builder
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, err := pgsource.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := s.Open(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(s.Close)
	return s, log.String()
}

// used is a bench whose lane has a mark.
func used(t *testing.T) (b *bench, name string) {
	t.Helper()
	b = newBench(t)
	b.exec("UPDATE reactor.lanes SET mark = 'in the session of the original'")
	name = b.name()
	if b.lease.ClientID != "reactor-"+name+"-1" {
		t.Fatalf("the client id is %s, the name %s", b.lease.ClientID, name)
	}
	return b, name
}

// isCopy makes sure that the next start takes another name, and the one after it does not.
func (b *bench) isCopy(was string) {
	b.t.Helper()
	_, log := b.reopen(pgsource.Config{DatabaseURL: b.url})
	now := b.name()
	if now == was {
		b.t.Errorf("a copy keeps the name %s", was)
	}
	if !strings.Contains(log, "is a copy") || !strings.Contains(log, was) || !strings.Contains(log, now) {
		b.t.Errorf("it logs %q", log)
	}
	if n := b.count("SELECT count(*) FROM reactor.lanes WHERE mark IS NOT NULL"); n != 0 {
		b.t.Errorf("%d lanes are said to have sessions of the original", n)
	}
	_, log = b.reopen(pgsource.Config{DatabaseURL: b.url})
	if again := b.name(); again != now || strings.Contains(log, "copy") {
		b.t.Errorf("the next start takes %s for %s, and logs %q", again, now, log)
	}
}

// TestStaysTheSame: a restart does not change the name, not even by a role that may not read the
// cluster's identifier.
func TestStaysTheSame(t *testing.T) {
	b, name := used(t)
	_, url := b.role("")
	b.grant(url[strings.Index(url, "role_"):])
	b.exec("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	for _, url := range []string{b.url, url, b.url} {
		if _, log := b.reopen(pgsource.Config{DatabaseURL: url}); b.name() != name || strings.Contains(log, "copy") {
			t.Errorf("it is called %s, was %s, and logs %q", b.name(), name, log)
		}
		if n := b.count("SELECT count(*) FROM reactor.deployment WHERE system_identifier IS NOT NULL"); n != 1 {
			t.Error("who the cluster is was forgotten")
		}
	}
	if n := b.count("SELECT count(*) FROM reactor.lanes WHERE mark IS NOT NULL"); n != 1 {
		t.Error("the session is not known any more")
	}
}

// TestCopyInTheCluster is made with CREATE DATABASE … TEMPLATE.
func TestCopyInTheCluster(t *testing.T) {
	b, name := used(t)
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.Close()
	cfg, err := pgx.ParseConfig(b.url)
	if err != nil {
		t.Fatal(err)
	}
	b.conn.Close(b.ctx)
	admin := examine(t, testkit.Postgres(t).URL())
	admin.exec("CREATE DATABASE copied_by_template TEMPLATE " + cfg.Database)
	t.Cleanup(func() {
		if _, err := admin.conn.Exec(context.Background(), "DROP DATABASE copied_by_template WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	examine(t, testkit.Postgres(t).DatabaseURL("copied_by_template")).isCopy(name)
}

// TestCopyFromADump is in a database with the same oid of another cluster, as the first
// database of each new container is.
func TestCopyFromADump(t *testing.T) {
	b, name := used(t)
	b.exec("UPDATE reactor.deployment SET system_identifier = system_identifier - 1")
	b.isCopy(name)
}

// TestPhysicalCopy: nothing in the database tells it from the original, as with a promoted standby.
// The take-overs at the broker show it.
func TestPhysicalCopy(t *testing.T) {
	server := testkit.OwnPostgres(t, ownServer)
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	b.start(b.url)
	copied := examine(t, testkit.Copy(t, server).URL())
	if _, log := copied.reopen(pgsource.Config{DatabaseURL: copied.url}); copied.name() != b.name() || strings.Contains(log, "copy") {
		t.Errorf("it is called %s, the original %s, and logs %q", copied.name(), b.name(), log)
	}
	// Whoever makes such a copy has to configure a name.
	copied.exec("TRUNCATE reactor.instances")
	copied.reopen(pgsource.Config{DatabaseURL: copied.url, Deployment: "staging"})
	if copied.name() != "staging" {
		t.Errorf("it is called %s", copied.name())
	}
}

// TestTwoStartOnACopy: two instances that start on a copy at once get the same name.
func TestTwoStartOnACopy(t *testing.T) {
	b, name := used(t)
	b.exec("UPDATE reactor.deployment SET system_identifier = system_identifier - 1")
	var (
		wg      sync.WaitGroup
		sources [4]*pgsource.Source
		ids     []string
	)
	for i := range sources {
		s, err := pgsource.New(pgsource.Config{DatabaseURL: b.url, MaxConns: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		sources[i] = s
		wg.Go(func() {
			if err := s.Open(b.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, s := range sources {
		_, lease := b.join(s)
		ids = append(ids, lease.ClientID)
	}
	for _, id := range ids {
		if !strings.HasPrefix(id, "reactor-"+b.name()+"-") || b.name() == name {
			t.Errorf("client ids %v, the name was %s and is %s", ids, name, b.name())
		}
	}
}

// TestRename: a configured name is used, but not while anything depends on the old one.
func TestRename(t *testing.T) {
	b, name := used(t)
	renamed := pgsource.Config{DatabaseURL: b.url, Deployment: "plant-7"}
	if why := b.refused(renamed); !strings.Contains(why, "1 instances run under that name") {
		t.Error(why)
	}
	b.claim(b.insert(1, "-1 second"))
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	if why := b.refused(renamed); !strings.Contains(why, "in flight under that name") {
		t.Error(why)
	}
	if b.name() != name {
		t.Errorf("a refused name was taken")
	}
	b.exec("TRUNCATE reactor.in_flight")
	s, _ := b.reopen(renamed)
	if _, lease := b.join(s); lease.ClientID != "reactor-plant-7-1" || lease.Mark != "" {
		t.Errorf("the lease is %+v", lease)
	}
	// An instance without a configured name uses that of the deployment.
	if s, _ := b.reopen(pgsource.Config{DatabaseURL: b.url}); b.name() != "plant-7" {
		t.Errorf("it is called %s", b.name())
	} else if _, lease := b.join(s); !strings.HasPrefix(lease.ClientID, "reactor-plant-7-") {
		t.Errorf("the lease is %+v", lease)
	}
}

// TestCopyThatKeepsItsName: a restore in a new cluster, after the old one has ceased to exist.
func TestCopyThatKeepsItsName(t *testing.T) {
	b, name := used(t)
	b.exec("UPDATE reactor.deployment SET system_identifier = system_identifier - 1")
	_, log := b.reopen(pgsource.Config{DatabaseURL: b.url, Deployment: name})
	if b.name() != name || !strings.Contains(log, "must not share a broker") {
		t.Errorf("it is called %s, was %s, and logs %q", b.name(), name, log)
	}
	if n := b.count("SELECT count(*) FROM reactor.lanes WHERE mark IS NOT NULL"); n != 1 {
		t.Error("the session is not known any more")
	}
}

// TestStartsDoNotWaitForEachOther: a start needs no lock of the membership if nothing is to be
// changed. Fifty instances that started at once waited for it until some gave up.
func TestStartsDoNotWaitForEachOther(t *testing.T) {
	b := newBench(t) // has recorded what there is to record
	tx := b.lockMembership()
	open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, MaxConns: 2})
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
}

// TestAnotherNameEndsMemberships: an instance that was frozen for so long that it counts as gone comes back when the deployment has
// another name, and takes that.
func TestAnotherNameEndsMemberships(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	was := b.name()
	for _, rename := range []func(){
		func() {
			b.exec("DELETE FROM reactor.deployment")
			if err := pgsource.Repair(b.ctx, b.url); err != nil {
				t.Fatal(err)
			}
		},
		func() { b.reopen(pgsource.Config{DatabaseURL: b.url, Deployment: "renamed"}) },
	} {
		b.exec("UPDATE reactor.instances SET heartbeat_at = now() - interval '2 minutes'")
		rename()
		if now := b.name(); now == was {
			t.Fatalf("it is called %s as before", now)
		}
		was = b.name()
		if _, err := b.member.Beat(b.ctx); !errors.Is(err, driver.ErrDeposed) {
			t.Errorf("under the name before, a beat says %v", err)
		}
		if b.member, b.lease = b.join(b.Source); !strings.HasPrefix(b.lease.ClientID, "reactor-"+was+"-") {
			t.Errorf("the client id is %s, and the deployment is called %s", b.lease.ClientID, was)
		}
	}
}
