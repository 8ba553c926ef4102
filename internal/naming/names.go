// Package naming lets several deployments use one database: it rewrites SQL that is written for the
// default names, schema reactor and table jobs, for others.
//
// The texts of this project stay as they are, so that a person can run them with psql. A deployment with
// other names passes each text through [Names.In] just before it is sent. That is exact because the
// texts are ours: the words that mean a name of the deployment are known, and a test lists them. What
// comes from users, such as the name of a partition, is a parameter, stands in double quotes, which In
// never changes, or is put into a text after In.
//
// Names are restricted to letters, digits and _ that need no quotes, so that they can stand wherever the
// default names do, also inside of literals and of other identifiers.
package naming

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// The default names.
const (
	DefaultSchema = "reactor"
	DefaultTable  = "jobs"
)

// mostBytes is the length of a name. The longest identifiers that are derived from it are the
// publications (14 bytes more), the names of partitions (20) and those of a conversion (23): all are
// shorter than the 63 bytes at which PostgreSQL cuts them.
const mostBytes = 40

// Names are the names of one deployment. The zero value has the default ones.
type Names struct {
	schema string // "": DefaultSchema
	home   string // the schema of the table, if it was given
	table  string // "": DefaultTable
	texts  *cache // nil: nothing has to be rewritten
}

// Error says which name cannot be used, and why.
type Error struct {
	Field   string // Schema or JobsTable
	Value   string
	Problem string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %q %s", e.Field, e.Value, e.Problem) }

// New checks names. The schema is that of reactor's own tables, and jobsTable is the table of jobs, as
// TABLE or SCHEMA.TABLE. Empty ones are the default names. An error is an *Error.
func New(schema, jobsTable string) (Names, error) {
	n := Names{schema: schema, table: jobsTable}
	if home, table, ok := strings.Cut(jobsTable, "."); ok {
		n.home, n.table = home, table
		if problem := problemOf(home); problem != "" {
			return Names{}, &Error{"JobsTable", jobsTable, problem}
		}
	}
	if jobsTable != "" {
		if problem := problemOf(n.table); problem != "" {
			return Names{}, &Error{"JobsTable", jobsTable, problem}
		}
	}
	if schema != "" {
		if problem := problemOf(schema); problem != "" {
			return Names{}, &Error{"Schema", schema, problem}
		}
	}
	if n.home == n.Schema() {
		return Names{}, &Error{"JobsTable", jobsTable, "must be in another schema than reactor's own tables"}
	}
	if n.Schema() != DefaultSchema || n.Table() != DefaultTable {
		n.texts = &cache{}
	}
	return n, nil
}

// problemOf returns what is wrong with a name, or "".
func problemOf(name string) string {
	switch {
	case name == "" || len(name) > mostBytes || name[0] >= '0' && name[0] <= '9' || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_')
	}):
		return fmt.Sprintf("must consist of names of a to z, 0 to 9 and _, not beginning with a digit, at most %d bytes each", mostBytes)
	case strings.HasPrefix(name, "pg_"):
		return "must not begin with pg_, which PostgreSQL keeps for itself"
	case name == "information_schema":
		return "must not be PostgreSQL's information_schema"
	case keywords[name]:
		return fmt.Sprintf("must not use %s, which is a word of SQL", name)
	}
	return ""
}

// Schema returns the schema of reactor's own tables.
func (n Names) Schema() string {
	if n.schema == "" {
		return DefaultSchema
	}
	return n.schema
}

// Table returns the name of the table of jobs, without its schema.
func (n Names) Table() string {
	if n.table == "" {
		return DefaultTable
	}
	return n.table
}

// Home returns the schema of the table of jobs; "" if it was not given.
func (n Names) Home() string { return n.home }

// Lock returns the key of an advisory lock of this deployment, for the key that the default one uses:
// deployments must not wait for each other.
func (n Names) Lock(key int64) int64 {
	if n.Schema() == DefaultSchema {
		return key
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", n.Schema(), key)
	return int64(h.Sum64())
}

// In returns a text that is written for the default names for these ones. For the default names it is
// the same text. A text that was rewritten before comes from a cache, so this may be called each time
// that a text is sent.
func (n Names) In(text string) string {
	if n.texts == nil {
		return text
	}
	return n.texts.get(text, n.rewrite)
}
