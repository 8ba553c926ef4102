package sql_test

import (
	"fmt"

	"github.com/job-publisher/reactor/sql"
)

// The versions of the schema, as `reactor migrate status` lists them.
func Example() {
	for _, m := range sql.Migrations {
		fmt.Println(m.Version, m.Name)
	}
	// Output:
	// 1 schema
	// 2 triggers
	// 3 identity
	// 4 feeds
	// 5 punctual
	// 6 managed
	// 7 observed
}
