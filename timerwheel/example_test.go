package timerwheel_test

import (
	"fmt"

	"github.com/job-publisher/reactor/timerwheel"
)

// The loop of an owner: sleep until Next, then call Advance until nothing is left over. Here nobody
// sleeps: time is what Next returns.
func Example() {
	w := timerwheel.New[string](timerwheel.Config{Start: 1_000_000})
	w.Schedule("tea", 4_000_000)
	w.Schedule("egg", 3_000_000)
	toast := w.Schedule("toast", 2_000_000)
	w.Schedule("overslept", 0)

	if what, ok := w.Cancel(toast); ok {
		fmt.Println("no", what)
	}
	for {
		at, ok := w.Next()
		if !ok {
			break
		}
		for w.Advance(at, 100, func(what string, deadline int64) {
			fmt.Println(at, what)
		}) {
		}
	}
	// Output:
	// no toast
	// 1000000 overslept
	// 3000000 egg
	// 4000000 tea
}
