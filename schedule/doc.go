// Package schedule computes when something recurs: by a cron expression in a time zone, or every so
// often. It is pure: no clock, no database.
//
// # Expressions
//
// Five fields (minute, hour, day of the month, month, day of the week), or six with seconds in front, as
// github.com/netresearch/go-cron reads them: lists, ranges, steps, names; L, LW, 15W in the day of the
// month; FRI#2 and FRI#L in the day of the week; @hourly, @daily, @weekly, @monthly, @yearly. If both days
// are restricted, a day that satisfies one of them is enough, as in every crontab.
//
// # Daylight saving time
//
// Cron expressions are about a wall clock, which jumps forward once a year, and back once. What happens
// then depends on the hour field:
//
// A fixed time of the day, that is, an hour field that does not allow all 24 hours, occurs once a day,
// whatever the clock does:
//
//   - A time that does not exist occurs at the moment of the jump. In Berlin, on the day on which 02:00
//     becomes 03:00, "30 2 * * *" occurs at 03:00. Several that do not exist are one occurrence.
//   - A time that exists twice occurs the first time.
//
// An expression that allows every hour ("* ", "0-23" and so on) goes on as time does:
//
//   - A time that does not exist is left out: "30 * * * *" occurs at 01:30 and then, an hour later, at
//     03:30.
//   - A time that exists twice occurs twice: "30 * * * *" at 02:30 and, an hour later, at 02:30 again.
//
// An interval (Spec.Every) counts elapsed time and knows no clock.
//
// The rules of the zones are those of the system's time zone database; where it has none, of the copy of Go's that is
// in the program.
package schedule
