package pgsource_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// columns are the types of the columns that there are, as pgsource.ColumnsOfSchema returns them.
func (b *bench) columns() map[string]string {
	b.t.Helper()
	rows, err := b.conn.Query(b.ctx, `
		SELECT CASE WHEN nspname = 'reactor' THEN relname ELSE '' END || '.' || attname, replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')
		  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
		 WHERE attnum > 0 AND NOT attisdropped AND relkind = 'r' AND (nspname = 'reactor' AND relname <> 'schema_version' OR c.oid = 'public.jobs'::regclass)`)
	if err != nil {
		b.t.Fatal(err)
	}
	found := map[string]string{}
	var name, of string
	if _, err := pgx.ForEachRow(rows, []any{&name, &of}, func() error {
		found[name] = of
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	return found
}

// TestRepairColumns: Repair makes the columns again that mean something without what they contained, with their types, and
// refuses where another one is gone: a new column processed, for example, would have every job published again.
func TestRepairColumns(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	want, added := pgsource.ColumnsOfSchema()
	if found := b.columns(); !maps.Equal(found, want) {
		t.Errorf("the texts make\n%v\nand not\n%v", found, want)
	}
	for table, names := range added {
		name := "public.jobs"
		if table != "" {
			name = "reactor." + table
		}
		for _, column := range names {
			if name+column != "reactor.deploymentjobs_schema" { // which says where the table of jobs is
				b.exec(fmt.Sprintf("ALTER TABLE %s DROP %s CASCADE", name, column))
			}
		}
	}
	if err := pgsource.Repair(b.ctx, b.url); err != nil {
		t.Fatal(err)
	}
	if found := b.columns(); !maps.Equal(found, want) {
		t.Errorf("mended to\n%v\nand not to\n%v", found, want)
	}
	b.start(b.url)
	b.published(b.claim(b.insert(1, "-1 second")))
	refused := func(breaks, says string) {
		t.Helper()
		b.exec(breaks)
		if err := pgsource.Repair(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("after %s: %v", breaks, err)
		}
	}
	refused("ALTER TABLE reactor.in_flight DROP token", "run DROP TABLE reactor.in_flight CASCADE, and then")
	b.exec("DROP TABLE reactor.in_flight CASCADE")
	if err := pgsource.Repair(b.ctx, b.url); err != nil {
		t.Error(err)
	}
	refused("ALTER TABLE jobs DROP processed CASCADE", "has lost the column processed, which cannot be made again without what it contained: restore the table from a backup")
}
