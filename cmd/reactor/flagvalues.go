package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// nonEmpty is a text that must not be empty. An empty one would mean that the flag was not given, and select
// all jobs; it usually comes from a script's variable that lacks its value.
type nonEmpty string

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *nonEmpty) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the value is empty: give one, or leave the flag out")
	}
	*t = nonEmpty(text)
	return nil
}

// jobStates are states, separated by commas. The flag can be repeated.
type jobStates []pgsource.JobState

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *jobStates) UnmarshalText(text []byte) error {
	for name := range strings.SplitSeq(string(text), ",") {
		state := pgsource.JobState(strings.TrimSpace(name))
		if !slices.Contains(pgsource.JobStates, state) {
			return fmt.Errorf("there is no such state as %q: use %s", name, join(pgsource.JobStates))
		}
		*s = append(*s, state)
	}
	return nil
}

// jobTime is an instant, or a distance from now on the database's clock.
type jobTime struct {
	given    bool
	absolute driver.DBTime
	distance *time.Duration
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *jobTime) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	*t = jobTime{given: true}
	if s == "now" {
		t.distance = new(time.Duration)
		return nil
	}
	if strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
		d, err := distance(s)
		if err != nil {
			return fmt.Errorf("%q is no distance from now: use for example +90s, +2h30m or -7d", text)
		}
		t.distance = &d
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("%q is no time: use for example 2030-01-31T08:00:00Z, 2030-01-31T09:00:00+01:00, now, +5m or -2h", text)
	}
	t.absolute = driver.DBTimeOf(at)
	return nil
}

// distance is time.ParseDuration, and knows days.
func distance(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && (n > 100_000 || n < -100_000) {
			err = strconv.ErrRange
		}
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// at returns the instant; nil if the flag was not given.
func (t jobTime) at(now driver.DBTime) *driver.DBTime {
	switch {
	case !t.given:
		return nil
	case t.distance != nil:
		at := now.Add(*t.distance)
		return &at
	}
	return &t.absolute
}
