package check_test

import (
	"fmt"
	"os"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

func ExampleCompare() {
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	var jobs []check.Expected
	var messages []check.Received
	for id := range int64(1000) {
		fire := noon.Add(time.Duration(id) * time.Millisecond)
		jobs = append(jobs, check.Expected{ID: id, FireAt: fire, Topic: "demo"})
		messages = append(messages, check.Received{ID: id, At: fire.Add(250 * time.Microsecond), Topic: "demo"})
	}
	report := check.Compare(jobs, messages, check.Config{})
	_ = report.Table(os.Stdout)
	fmt.Println(report.OK())

	report = check.Compare(jobs, append(messages[1:], messages[7]), check.Config{})
	fmt.Println(report.Err())
	// Output:
	// published         1000 of 1000
	// lost              0
	// duplicated        0
	// early             0
	// lateness p50      0.25 ms
	// lateness p99      0.25 ms
	// lateness max      0.25 ms
	// jobs per second   1000
	// true
	// of 1000 due jobs 999 published: 1 lost (job 0); 1 duplicated (job 7, 1 extra, 0 with DUP)
}
