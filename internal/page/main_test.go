package page

import (
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }
