package pgsource_test

import (
	"fmt"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// TestHintsNameShards: a notification names exactly the shards of the unprocessed rows that a
// statement has written, also of the last shard, whose bit is the sign.
func TestHintsNameShards(t *testing.T) {
	b := newBench(t)
	hints, _ := listen(t, b.ctx, b.Source)
	shardsOf := func(ids []int64) (set driver.ShardSet) {
		for _, id := range ids {
			set = set.With(uint8(b.count("SELECT shard FROM jobs WHERE id = $1", id)))
		}
		return set
	}
	var sign bool
	for range 200 {
		ids := b.insert(1, "1 second")
		h := <-hints
		if want := shardsOf(ids); h.Shards != want {
			t.Fatalf("a row of the shards %v is announced for %v", want.List(), h.Shards.List())
		}
		sign = sign || h.Shards == driver.ShardSet(0).With(driver.Shards-1)
	}
	if !sign {
		t.Error("no row was of the last shard: the test shows less than it says")
	}
	ids := b.insert(7, "1 second")
	if h := <-hints; h.Shards != shardsOf(ids) {
		t.Errorf("rows of the shards %v are announced for %v", shardsOf(ids).List(), h.Shards.List())
	}
	// A processed row is nothing to read.
	b.exec("INSERT INTO jobs (id, topic, fire_at, processed) VALUES (-1, 't', now(), true), (-2, 't', now(), false)")
	if h := <-hints; h.Shards != shardsOf([]int64{-2}) || h.MinID != -2 {
		t.Errorf("one of two rows is pending, in the shard %v, and %+v is announced", shardsOf([]int64{-2}).List(), h)
	}
}

// TestHintsOfOtherVersions: the notification of older triggers may concern any shard, and a later
// version may say more.
func TestHintsOfOtherVersions(t *testing.T) {
	b := newBench(t)
	hints, _ := listen(t, b.ctx, b.Source)
	for payload, want := range map[string]driver.ShardSet{
		"1 2 3":                      0,
		"1 2 3 0":                    0,
		"1 2 3 5 what comes later":   5,
		"1 2 3 -1":                   driver.AllShards,
		"1 2 3 -9223372036854775808": driver.ShardSet(0).With(63),
	} {
		b.exec("SELECT pg_notify('reactor_jobs', $1)", payload)
		if h := <-hints; h.Kind != driver.HintJobs || h.MinID != 1 || h.MaxID != 2 || h.Earliest != 3 || h.Shards != want {
			t.Errorf("%q makes %+v", payload, h)
		}
	}
}

// TestTriggersAreRenewedAfterTheLastOldInstance: instances of earlier versions ignore notifications
// that name shards, so the function of the triggers stays as it is while one lives.
func TestTriggersAreRenewedAfterTheLastOldInstance(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	named := func() bool {
		t.Helper()
		return b.count("SELECT count(*) FROM pg_proc WHERE proname = 'announce_jobs' AND prosrc LIKE '%shards%'") == 1
	}
	// As version 4 left it, with an instance of it that runs.
	undo := schema.Migrations[4]
	b.exec("SET search_path = public; DELETE FROM reactor.schema_version WHERE version_id = 5")
	b.exec(undo.Down)
	b.exec("ALTER TABLE reactor.instances DROP COLUMN shard_hints")
	b.exec("INSERT INTO reactor.instances (id, name, backends, dynamic, feed) VALUES (1, 'old', 'old', true, 'notify')")
	if named() {
		t.Fatal("undoing the version has left its function")
	}
	if names := b.migrateUp(b.url); len(names) != 1 || names[0] != "punctual" {
		t.Errorf("applied %v", names)
	}
	if named() {
		t.Fatal("the function was replaced, and an instance lives that does not understand what it sends")
	}
	if names := b.migrateUp(b.url); len(names) != 0 || named() {
		t.Errorf("applied %v while the old instance lives", names)
	}
	if err := (pgsource.FeedSwitch{DatabaseURL: b.url, To: pgsource.FeedNotify, Patience: 1}).Run(b.ctx); err == nil || named() {
		t.Errorf("changing over to notify says %v, and has replaced the function: %t", err, named())
	}

	// A role that may not replace it is no obstacle.
	b.exec("DELETE FROM reactor.instances")
	b.start(b.url) // an instance of this version
	role, url := b.role("")
	b.grant(role)
	if names := b.migrateUp(url); len(names) != 0 || named() {
		t.Errorf("role %s applied %v", role, names)
	}
	if names := b.migrateUp(b.url); fmt.Sprint(names) != "[triggers that name shards]" || !named() {
		t.Errorf("applied %v after the last old instance", names)
	}
	if names := b.migrateUp(b.url); len(names) != 0 {
		t.Errorf("applied %v once more", names)
	}
}
