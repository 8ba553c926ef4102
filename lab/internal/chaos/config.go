package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/reactor"
)

// Config says what to destroy, and how. The zero value of every field but Program is
// its default.
type Config struct {
	// Program is the path of reactor.
	Program string
	// Seed of the schedule.
	Seed uint64
	// Delivery that the instances run in, and are judged by.
	Delivery reactor.Delivery
	// Instances are at least 1. Defaults to 3.
	Instances int
	// Duration of the destruction. Defaults to 20 s.
	Duration time.Duration
	// Rate of jobs per second, beside the bursts. Defaults to 1000.
	Rate int
	// Pause is the mean time between two faults. Defaults to 700 ms.
	Pause time.Duration
	// Faults are the names of those to use (see FaultNames). Defaults to Everything.
	Faults []string
	// Settings that the instances' role has: "plain", none; "hostile", some that the seed
	// draws (see surroundings.go); "seed", hostile for a third of the seeds. Defaults to
	// "seed".
	Settings string
	// Feed that the run begins with, "notify" or "wal"; the fault "feed" changes it over.
	// Defaults to the seed's choice.
	Feed string
	// Pooler is the mode of a PgBouncer between the instances and the database,
	// stack.PoolTransaction or stack.PoolSession; they get a direct connection for LISTEN.
	// Defaults to none.
	Pooler string
	// Dir is where the instances' logs are kept; it must exist.
	Dir string
	// Logger gets what happens. Defaults to discarding.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Instances = cmp.Or(c.Instances, 3)
	c.Duration = cmp.Or(c.Duration, 20*time.Second)
	c.Rate = cmp.Or(c.Rate, 1000)
	c.Pause = cmp.Or(c.Pause, 700*time.Millisecond)
	if len(c.Faults) == 0 {
		c.Faults = Everything()
	}
	c.Settings = cmp.Or(c.Settings, SettingsBySeed)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	for _, name := range c.Faults {
		if !slices.Contains(FaultNames(), name) {
			return fmt.Errorf("there is no fault %q; there are %s", name, strings.Join(FaultNames(), ", "))
		}
	}
	switch {
	case !slices.Contains([]string{"", stack.PoolSession, stack.PoolTransaction}, c.Pooler):
		return fmt.Errorf("there is no Pooler %q", c.Pooler)
	case !slices.Contains([]string{"", "notify", "wal"}, c.Feed):
		return fmt.Errorf("there is no Feed %q", c.Feed)
	case !slices.Contains([]string{SettingsBySeed, SettingsPlain, SettingsHostile}, c.Settings):
		return fmt.Errorf("there are no Settings %q", c.Settings)
	case c.Program == "":
		return errors.New("the Program is missing")
	case c.Instances < 1:
		return fmt.Errorf("the number of Instances is %d, must be at least 1", c.Instances)
	case c.Rate < 10:
		return fmt.Errorf("the Rate is %d, must be at least 10", c.Rate)
	}
	return nil
}

// beginsWithWAL reports whether there are no triggers at first.
func (c Config) beginsWithWAL() bool { return c.Feed == "wal" || c.Feed == "" && c.Seed%2 == 0 }

// has reports whether a fault is in use.
func (c Config) has(name string) bool { return slices.Contains(c.Faults, name) }
