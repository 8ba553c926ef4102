// Package words says numbers, times and states to people, in the same words on a terminal and on the page.
package words

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// Thousands groups the digits of a number that is not negative.
func Thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Jobs is a number of jobs.
func Jobs(n int64) string {
	if n == 1 {
		return "1 job"
	}
	return Thousands(n) + " jobs"
}

// Count is a number of jobs that are counted up to pgsource.MostCounted.
func Count(n int64) string {
	if n > pgsource.MostCounted {
		return "more than " + Jobs(pgsource.MostCounted)
	}
	return Jobs(n)
}

// Millis is a lateness.
func Millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// Duration is a duration in its largest units: 3.2s, 5m12s, 7h5m, 12d3h.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < day:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}
