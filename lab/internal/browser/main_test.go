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
	// They mostly wait: for the page, which changes each second, and for what must not change.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err) // testing has no such flag any more
	}
	testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp))
}

// TestPage shows the page of one deployment in one browser. The first test counts what is published, so nothing else is
// published meanwhile. The others run beside each other, also that which kills an instance: all the same, each message arrives once.
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
	d.hostile(t)
	for name, test := range map[string]func(*testing.T, context.Context){
		"access, wide and light": func(t *testing.T, b context.Context) { d.testAccess(t, b, screen{width: 1280, height: 900}) },
		"access, narrow and dark": func(t *testing.T, b context.Context) {
			d.testAccess(t, b, screen{width: 390, height: 844, dark: true, phone: true})
		},
		"retry":             d.testRetry,
		"many":              d.testMany,
		"ticks":             d.testTicks,
		"lists":             d.testLists,
		"schedule":          d.testSchedule,
		"keyboard":          d.testKeyboard,
		"speech":            d.testSpeech,
		"zones":             d.testZones,
		"a killed instance": d.testKill,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, b) })
	}
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
