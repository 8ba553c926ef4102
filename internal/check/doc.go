// Package check verifies what reactor promises: every due job is published
// exactly once, unchanged, and none is published early.
//
// It takes no part in the publishing and shares no code with it. It reads the
// expected jobs from the table, it receives the messages with its own subscriber
// through another MQTT client, and Compare compares the two. The demo, the tests,
// the chaos runs and the benchmarks all use this package, so that "no duplicates"
// means the same everywhere.
//
//	jobs table ── ExpectedFromDB ──► []Expected ─┐
//	                                             ├─► Compare ──► Report ──► OK, Err, Table
//	broker ────── Subscriber ──────► []Received ─┘
//
// The subscriber must not lose or repeat messages either. SubscriberConfig.QoS says
// which QoS to choose, and Progress.SessionsLost says what a restart of the broker can
// do to the result.
package check
