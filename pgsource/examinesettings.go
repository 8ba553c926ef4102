package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// harmful are settings that a role, a database or a server may have, and what they harm. An instance makes
// its own settings (settings.go); applications that insert jobs have those.
var harmful = []struct {
	name  string
	fine  []string
	harms string
}{
	{"synchronous_commit", []string{"on", "remote_apply", "remote_write", "local"}, "a crash of PostgreSQL may lose what applications have inserted, and were told to be committed"},
	{"fsync", []string{"on"}, "a crash of the machine may destroy the database"},
	{"full_page_writes", []string{"on"}, "a crash of the machine may destroy tables"},
	{"default_transaction_isolation", []string{"read committed"}, "applications that change jobs get serialization errors, and have to repeat their transactions"},
	{"session_replication_role", []string{"origin", "local"}, "no trigger fires, and jobs that are inserted so are not announced"},
	{"zero_damaged_pages", []string{"off"}, "damaged jobs vanish without an error"},
}

// short are limits that end what applications do with many jobs, if they are short. An instance lifts them
// for itself.
var short = []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"}

// settings asks for settings that hurt, as a session of the role gets them.
func (x *examination) settings(ctx context.Context) {
	const check = "settings"
	type made struct{ Name, Value, Source string }
	var list []made
	names := slices.Clone(short)
	for _, h := range harmful {
		names = append(names, h.name)
	}
	if err := x.inRole(ctx, func(tx pgx.Tx) error {
		// SET LOCAL of this transaction hides the statement's own limit, which reset_val has.
		rows, err := tx.Query(ctx, `
			SELECT name, CASE WHEN name = 'statement_timeout' THEN reset_val ELSE setting END,
			       CASE WHEN name = 'statement_timeout' THEN 'default' ELSE source END
			  FROM pg_settings WHERE name = ANY ($1) ORDER BY name`, names)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[made])
		return err
	}); err != nil {
		x.failed(check, err)
		return
	}
	var lifted []string
	harmless := true
	for _, m := range list {
		if slices.Contains(short, m.Name) {
			if m.Value != "0" {
				lifted = append(lifted, m.Name)
			}
			continue
		}
		for _, h := range harmful {
			if h.name == m.Name && !slices.Contains(h.fine, m.Value) {
				harmless = false
				x.add(check, driver.Warning, fmt.Sprintf("%s is %s for sessions of this role: %s", m.Name, m.Value, h.harms), x.resets(ctx, m.Name, m.Source))
			}
		}
	}
	if !harmless {
		return
	}
	what := "none of this role, database or server harms jobs"
	if len(lifted) > 0 {
		what += "; an instance lifts " + strings.Join(lifted, ", ") + " for itself"
	}
	x.add(check, driver.Fine, what, "")
}
