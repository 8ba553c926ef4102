// Package reactor publishes the jobs of a Source to a Sink, each at its fire_at on
// the database's clock: never early, never twice, never lost.
//
// It is the domain. It knows nothing of Postgres or MQTT but what the interfaces in
// source.go and sink.go say, and pgsource and mqttsink, which implement those, know
// nothing of each other.
//
// # The road of a job
//
//	Source.Listen ──hint──► loader ◄── sweep, new shards, look again
//	                          │ (id, due, bytes) of the near future
//	                          ▼
//	                      dispatcher          owns the timer wheel
//	                          │ batches of ids, due within the lead
//	                          ▼
//	            ┌──────── claimer ────────┐   one a lane; Source.Claim: update + journal
//	            │             │ jobs      │
//	            │             ▼           │
//	            │         launchpad       │   waits for each job's own microsecond
//	            │             │           │
//	            │             ▼           │
//	            └─────────── lane ────────┘   slots, in-flight messages, acks
//	                          │ ▲
//	               Session.Publish, Acks      one network connection
//	                          │
//	                          ▼
//	                       settler            Source.Settle: out of the journal
//
// Every arrow is bounded: the wheel by Config.MaxPending, the batch on offer by the
// claim's size, a lane by its slots, the wire by the broker's limit. What stops at the
// bottom stops everything above it, up to the table, which is the truth and has room.
//
// # Who owns what
//
// One goroutine each runs the loader, the dispatcher (with the wheel), every lane's
// claimer and launch pad, the settler, the clock, and the membership's heartbeat
// (with the set of running lanes). A lane's state has a mutex, for its claimer, its
// launch pad, the session's reader and the settler meet there.
//
// An incarnation ties them together from Join to Leave. If the other instances give
// it up for dead, it is abandoned as a whole and the next one begins.
//
// # What happens when we die
//
//	before the claim commits     nothing happened; a sweep finds the job
//	after the claim commits      the journal names it; whoever takes over the lane
//	                             publishes it
//	after the PUBLISH            the same. QoS 2: in the same slot, by which the broker
//	                             knows it; QoS 1: it may arrive twice
//	after the PUBACK or PUBREC   the same
//	after the settlement         QoS 1: it has been published once, and is in no journal.
//	                             QoS 2: the journal says that the broker has it; whoever
//	                             takes over releases it
//	after the PUBREL             the same; a second release is harmless
//	after the PUBCOMP            the same, until a second settlement ends the batch
//
// At-most-once differs in one point: the recovery records journalled jobs as failed
// instead of publishing them.
//
// The comments at pgsource's statements and at lane.pump argue each of these.
package reactor
