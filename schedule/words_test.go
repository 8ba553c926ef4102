package schedule_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/schedule"
)

// TestWords: an expression is said in words that mean the same, or not at all.
func TestWords(t *testing.T) {
	for expression, want := range map[string]string{
		"* * * * *": "every minute", "* * * * * *": "every second", "*/10 * * * * *": "every 10 seconds", "*/7 * * * * *": "",
		"0 * * * *": "every hour", "15 * * * *": "at minute 15 of every hour", "*/5 * * * *": "every 5 minutes", "0/15 * * * *": "every 15 minutes", "*/7 * * * *": "", "0 */2 * * *": "every 2 hours",
		"30 9 * * *": "every day at 09:30", "0 9,17 * * *": "every day at 09:00 and 17:00", "5 30 9 * * *": "every day at 09:30:05",
		"30 9 * * 1-5": "at 09:30 from Monday to Friday", "30 9 * * mon,WED,fri": "at 09:30 on Monday, Wednesday and Friday", "0 0 * * 7": "at 00:00 on Sunday",
		"0 0 1 * *": "at 00:00 on day 1 of the month", "0 0 1,15 * MON": "at 00:00 on days 1 and 15 of the month or on Monday", "0 6 * JAN-MAR *": "every day at 06:00 in January to March",
		"0 12 24 12 ?": "at 12:00 on day 24 of the month in December", "*/15 9-17 * * 1-5": "every 15 minutes from 09:00 to 17:59 from Monday to Friday",
		"0 0 L * *": "", "0 0 * * FRI#2": "", "0 0 15W * *": "", "1-5 2-3 * * *": "", "@daily": "every day at 00:00", "@hourly": "every hour", "nonsense": "", "1 2 3": "",
	} {
		if got := schedule.Words(schedule.Spec{Cron: expression, Zone: "UTC"}); got != want {
			t.Errorf("%q is %q, want %q", expression, got, want)
		}
	}
	for every, want := range map[time.Duration]string{time.Second: "every second", 90 * time.Second: "every 90 seconds", 5 * time.Minute: "every 5 minutes", 24 * time.Hour: "every day", 14 * 24 * time.Hour: "every 2 weeks"} {
		if got := schedule.Words(schedule.Spec{Every: every}); got != want {
			t.Errorf("%v is %q, want %q", every, got, want)
		}
	}
}
