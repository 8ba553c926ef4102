package browser

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/pgsource"
)

var screenshots = flag.String("screenshots", "", "draw the pages into this folder, instead of testing them")

func TestMain(m *testing.M) {
	flag.Parse()
	testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp))
}

// TestPage shows the page of one deployment in one browser. The first tests count what they have published, so
// nothing else is published meanwhile; the last one kills an instance.
func TestPage(t *testing.T) {
	b := startBrowser(t)
	if *screenshots != "" {
		if err := os.MkdirAll(*screenshots, 0o755); err != nil {
			t.Fatal(err)
		}
		deploy(t, "north", "south").draw(t, b, *screenshots)
		return
	}
	d := deploy(t, "one", hostileName)
	t.Run("numbers", func(t *testing.T) { d.testNumbers(t, b) })
	t.Run("actions", func(t *testing.T) {
		t.Run("retry", func(t *testing.T) { t.Parallel(); d.testRetry(t, b) })
		t.Run("many", func(t *testing.T) { t.Parallel(); d.testMany(t, b) })
		t.Run("ticks", func(t *testing.T) { t.Parallel(); d.testTicks(t, b) })
		t.Run("lists", func(t *testing.T) { t.Parallel(); d.testLists(t, b) })
		t.Run("schedule", func(t *testing.T) { t.Parallel(); d.testSchedule(t, b) })
		t.Run("keyboard", func(t *testing.T) { t.Parallel(); d.testKeyboard(t, b) })
		t.Run("speech", func(t *testing.T) { t.Parallel(); d.testSpeech(t, b) })
		t.Run("zones", func(t *testing.T) { t.Parallel(); d.testZones(t, b) })
	})
	t.Run("pages", func(t *testing.T) {
		d.hostile(t)
		t.Run("access, wide and light", func(t *testing.T) { t.Parallel(); d.testAccess(t, b, screen{width: 1280, height: 900}) })
		t.Run("access, narrow and dark", func(t *testing.T) {
			t.Parallel()
			d.testAccess(t, b, screen{width: 390, height: 844, dark: true, phone: true})
		})
		t.Run("a killed instance", func(t *testing.T) { t.Parallel(); d.testKill(t, b) })
	})
}

// patience is how long anything may take on a machine that is busy. Nothing waits that long unless it has failed.
const patience = time.Minute

// eventually asks until the answer is yes. The test fails, with what was told last, if that takes longer than patience.
func eventually(t testing.TB, what string, ask func() (yes bool, told string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		yes, told := ask()
		if yes {
			return
		}
		if !wait.Sleep(ctx, 30*time.Millisecond) {
			t.Fatalf("%s: not so after %v, but %s", what, patience, told)
		}
	}
}
