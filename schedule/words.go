package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Words says in English when a Spec recurs, for people who do not read cron: "at 09:30 from Monday to Friday". It is "" for an
// expression that it has no words for, such as one with L, W or #. It does not check the Spec: Parse does.
func Words(spec Spec) string {
	if spec.Cron == "" {
		return "every " + inUnits(spec.Every)
	}
	fields := strings.Fields(strings.ToUpper(spec.Cron))
	if len(fields) == 1 {
		return descriptors[fields[0]]
	}
	if len(fields) == 5 {
		fields = append([]string{"0"}, fields...)
	}
	if len(fields) != 6 {
		return ""
	}
	clock, ok := clockWords(fields[0], fields[1], fields[2])
	days, ok2 := dayWords(fields[3], fields[5])
	months, ok3 := listWords(fields[4], monthNames[:], 1)
	if !ok || !ok2 || !ok3 {
		return ""
	}
	if strings.HasPrefix(clock, "at ") && days == "" && !strings.Contains(clock, "every") {
		clock = "every day " + clock
	}
	text := clock
	if days != "" {
		text += " " + days
	}
	if months != "" {
		text += " in " + months
	}
	return text
}

var descriptors = map[string]string{
	"@YEARLY": "every year, on January 1 at 00:00", "@ANNUALLY": "every year, on January 1 at 00:00", "@MONTHLY": "at 00:00 on day 1 of the month",
	"@WEEKLY": "at 00:00 on Sunday", "@DAILY": "every day at 00:00", "@MIDNIGHT": "every day at 00:00", "@HOURLY": "every hour",
}

var (
	monthNames = [12]string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	dayNames   = [8]string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
)

// clockWords are for the first three fields.
func clockWords(second, minute, hour string) (string, bool) {
	everyStep := func(field, unit string, of int) (string, bool) {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(field, "*/"), "0/"))
		switch {
		case field == "*":
			return "every " + unit, true
		case !strings.Contains(field, "/") || err != nil || n < 1 || of%n != 0: // otherwise the last step is shorter
			return "", false
		case n == 1:
			return "every " + unit, true
		}
		return fmt.Sprintf("every %d %ss", n, unit), true
	}
	seconds, ok1 := numbers(second, 59)
	minutes, ok2 := numbers(minute, 59)
	hours, ok3 := numbers(hour, 23)
	switch {
	case minute == "*" && hour == "*":
		if words, ok := everyStep(second, "second", 60); ok {
			return words, true
		}
		if second == "0" {
			return "every minute", true
		}
	case second != "0" && !(ok1 && len(seconds) == 1 && ok2 && ok3):
	case hour == "*" && minute == "0" && second == "0":
		return "every hour", true
	case hour == "*" && ok2 && len(minutes) == 1 && second == "0":
		return fmt.Sprintf("at minute %d of every hour", minutes[0]), true
	case hour == "*":
		return everyStep(minute, "minute", 60)
	case minute == "0" && !ok3:
		return everyStep(hour, "hour", 24)
	case ok2 && ok3 && len(minutes)*len(hours) <= 6:
		var times []string
		for _, h := range hours {
			for _, m := range minutes {
				text := fmt.Sprintf("%02d:%02d", h, m)
				if seconds[0] != 0 {
					text += fmt.Sprintf(":%02d", seconds[0])
				}
				times = append(times, text)
			}
		}
		return "at " + enumerated(times), true
	}
	if words, ok := everyStep(minute, "minute", 60); ok && second == "0" { // within some hours
		if from, to, isRange := strings.Cut(hour, "-"); isRange {
			first, err1 := strconv.Atoi(from)
			last, err2 := strconv.Atoi(to)
			if err1 == nil && err2 == nil {
				return fmt.Sprintf("%s from %02d:00 to %02d:59", words, first, last), true
			}
		}
	}
	return "", false
}

// dayWords are for the day of the month and the day of the week; "": every day.
func dayWords(ofMonth, ofWeek string) (string, bool) {
	if ofMonth == "?" {
		ofMonth = "*"
	}
	if ofWeek == "?" {
		ofWeek = "*"
	}
	var parts []string
	if ofMonth != "*" {
		days, ok := numbers(ofMonth, 31)
		if !ok {
			return "", false
		}
		names := make([]string, len(days))
		for i, day := range days {
			names[i] = strconv.Itoa(day)
		}
		word := "day "
		if len(days) > 1 {
			word = "days "
		}
		parts = append(parts, "on "+word+enumerated(names)+" of the month")
	}
	week, ok := listWords(ofWeek, dayNames[:], 0)
	if !ok {
		return "", false
	}
	switch {
	case week == "":
	case strings.Contains(week, " to "):
		parts = append(parts, "from "+week)
	default:
		parts = append(parts, "on "+week)
	}
	return strings.Join(parts, " or "), true
}

// listWords are for a list or a range of names or their numbers; "": all.
func listWords(field string, names []string, first int) (string, bool) {
	if field == "*" || field == "?" {
		return "", true
	}
	name := func(text string) string {
		if n, err := strconv.Atoi(text); err == nil && n >= first && n-first < len(names) {
			return names[n-first]
		}
		for _, name := range names {
			if len(text) == 3 && strings.ToUpper(name[:3]) == text {
				return name
			}
		}
		return ""
	}
	if from, to, isRange := strings.Cut(field, "-"); isRange && !strings.Contains(field, ",") {
		return name(from) + " to " + name(to), name(from) != "" && name(to) != ""
	}
	var list []string
	for part := range strings.SplitSeq(field, ",") {
		if name(part) == "" {
			return "", false
		}
		list = append(list, name(part))
	}
	return enumerated(list), true
}

// numbers are those of a list; ok is false for everything else.
func numbers(field string, most int) (list []int, ok bool) {
	for part := range strings.SplitSeq(field, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > most {
			return nil, false
		}
		list = append(list, n)
	}
	return list, true
}

func enumerated(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// inUnits writes an interval in the largest units that it is a multiple of.
func inUnits(d time.Duration) string {
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"week", 7 * 24 * time.Hour}, {"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		switch {
		case d == unit.of:
			return unit.name
		case d > 0 && d%unit.of == 0:
			return fmt.Sprintf("%d %ss", d/unit.of, unit.name)
		}
	}
	return d.String()
}
