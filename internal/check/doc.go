// Package check is the one judge of what reactor promises: every due job
// published exactly once, unchanged, and none early.
//
// It takes no part in the publishing and shares no code with it. What was asked
// for is read from the table, what came out is seen by a subscriber of its own
// through another MQTT client, and Judge holds the one against the other. Demo,
// tests, chaos runs and benchmarks all use this judge, so that "no duplicates"
// means the same everywhere.
//
//	jobs table ── ExpectedFromDB ──► []Expected ─┐
//	                                             ├─► Judge ──► Report ──► OK, Err, Table
//	broker ────── Subscriber ──────► []Received ─┘
//
// Counting needs care on the subscriber's side too: see Subscriber for the QoS
// to choose and for what a broker restart may do to the evidence.
package check
