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

// The least Rate, of which each tenth of a second has a job, and the least Pause.
const (
	MinRate  = 10
	MinPause = 10 * time.Millisecond
)

// Config says what to run and which faults to make. For every field except Program and Dir the
// zero value is the default.
type Config struct {
	// Program is the path of reactor.
	Program string
	// Seed is the seed of the schedule.
	Seed uint64
	// Delivery is the delivery mode of the instances. The checks depend on it.
	Delivery reactor.Delivery
	// Instances is the number of instances, at least 1. Defaults to 3.
	Instances int
	// Duration is how long faults are made. Defaults to 20 s.
	Duration time.Duration
	// Rate is the number of jobs per second, without the bursts, at least MinRate. Defaults to 1000.
	Rate int
	// Pause is the mean time between two faults, at least MinPause. Defaults to 700 ms.
	Pause time.Duration
	// Faults are the names of the faults to use (see FaultNames). Defaults to DefaultFaults.
	Faults []string
	// Settings says which settings the instances' role has. "plain": none. "hostile": some that
	// the seed draws (see rolesettings.go). "seed": hostile for a third of the seeds. Defaults
	// to "seed".
	Settings string
	// Feed is the feed at the start of the run, "notify" or "wal"; the fault "feed" changes it.
	// By default the seed decides.
	Feed string
	// Pooler is the mode of a PgBouncer between the instances and the database,
	// stack.PoolTransaction or stack.PoolSession. The instances also get a direct connection
	// for LISTEN. Defaults to no PgBouncer.
	Pooler string
	// Dir is the folder of the instances' logs. It must exist.
	Dir string
	// Logger logs the faults. Defaults to none.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Instances = cmp.Or(c.Instances, 3)
	c.Duration = cmp.Or(c.Duration, 20*time.Second)
	c.Rate = cmp.Or(c.Rate, 1000)
	c.Pause = cmp.Or(c.Pause, 700*time.Millisecond)
	if len(c.Faults) == 0 {
		c.Faults = DefaultFaults()
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
	case c.Rate < MinRate:
		return fmt.Errorf("the Rate is %d, must be at least %d", c.Rate, MinRate)
	case c.Pause < MinPause:
		return fmt.Errorf("the Pause is %v, must be at least %v", c.Pause, MinPause)
	}
	return nil
}

// beginsWithWAL reports whether the run begins with the feed wal, and so without triggers.
func (c Config) beginsWithWAL() bool { return c.Feed == "wal" || c.Feed == "" && c.Seed%2 == 0 }

// has reports whether a fault is used.
func (c Config) has(name string) bool { return slices.Contains(c.Faults, name) }
