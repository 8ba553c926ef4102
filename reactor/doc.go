// Package reactor publishes the jobs of a Source to a Sink, each at its fire_at on
// the database's clock: never early, never twice, never lost.
//
// It is the domain. It knows nothing of Postgres or MQTT but what the interfaces of package
// driver say, and pgsource and mqttsink, which implement those, know
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
// Every arrow is bounded: the wheel by Config.MaxPending, the batch on offer by the claim's
// size, a lane by its slots, the wire by the broker's limit. When a stage at the bottom stops,
// every stage above it stops, up to the table. The table is the source of truth, and has room.
//
// # Who owns what
//
// One goroutine each runs the loader's reads by id and its scans, the dispatcher (with the
// wheel), every lane's claimer and launch pad, the settler, the clock, and the membership's
// heartbeat, which decides about the lanes' runners. A lane's state has a mutex, for its claimer,
// its launch pad, the session's reader and the settler meet there.
//
// Each stage declares beside it, as small interfaces, what it needs of the others. compose.go
// wires them into an incarnation, from Join to Leave; supervise.go says how long each part
// runs, and what happens when it ends; shutdown.go ends the incarnation in two stages. If the
// other instances declare it dead, it is abandoned as a whole and the next one begins.
//
// Statistics are written by the stages and read by Stats. No decision depends on them: each
// stage has its own counts for its bounds and for its end.
//
// # Locks
//
// Whoever holds one of these takes only those to the right of it:
//
//	lanes.mu     ─┐
//	progress.mu  ─┼─► lane.mu ─► settler.mu
//	launchpad.mu ─┘       └────► the session's own
//
// The settler's turn, and the turn to check the broker, are channels of capacity one and not
// mutexes, because they are held while the database or the broker answers. The settler takes
// lane.mu within its turn, and nobody waits for a turn while holding a lock. leases.mu,
// clock.mu, lead.mu, quarantine.mu, recent.mu, budget.mu, traffic.mu, pulses.mu, healthLog.mu, and the loader's, which is held while it plans
// and never while it reads, and a Tracer's own, are innermost: nothing else is locked within. (The loader asks
// memory within its own; the dispatcher answers from atomics.)
//
// # The hand-off, and what happens when we die
//
// A message at QoS 2 goes through eight states. Its instance may die in any of them; the tests
// name these crash points. Whoever takes over the lane finds the job's place in the journal,
// and does what the right column says.
//
//	     state      entered by             if we die here
//	C1   pending    INSERT                 nothing had happened; a sweep finds it
//	C2   held       claim commits: it is   sends it
//	                in the journal
//	C3   sent       PUBLISH written        sends it again as DUP in the same slot, by which
//	                                       the broker knows it if it has it
//	C4   received   PUBREC read            the same
//	C5   marked     mark commits: PUBREC   releases it
//	                is in the journal
//	C6   releasing  PUBREL written         releases it again; if the broker has freed the
//	                                       slot it answers so, which does no harm
//	C7   ended      PUBCOMP read           the same
//	C8   gone       deletion commits: it   has nothing to do; the slot is free
//	                left the journal
//
// Four rules hold it together. PUBREL is not sent before the mark is committed, or a recovery
// would send again what the broker has forgotten. A slot is not used again before its PUBCOMP
// is in and its row deleted, or the broker would take the new message for the old. And nothing
// is sent over a new connection before the lease is looked at again, after CONNACK: the broker
// closes the old owner's connection when the new one connects, and the other way round. And a
// message that was received and not released is sent again over each new connection before it
// is released: the broker may have been killed, and have restarted with an older state that it
// had saved. The model in internal/handoff enumerates what can happen to a lane, and finds a
// loss or a duplicate if one of the rules is broken.
//
// A commit whose answer is lost may or may not have happened. A claim is asked for by its
// token, under a raised epoch that keeps it from committing later (Journal.ResolveClaim).
// A settlement is repeated word for word: a second one finds nothing to do.
//
// At QoS 1, PUBACK ends what PUBREC to PUBCOMP do above: C3 and what follows until the row
// is deleted publish the message again, and it may arrive twice. At QoS 0 the recovery
// records what the journal still lists as failed, and publishes nothing.
//
// All this needs a broker that keeps its session. SessionLossPolicy says what happens if the
// broker loses it. A mark in the session, which the lane's row names, tells it from another one
// (Session.Mark, laneRunner.beginSession).
//
// Not all that is in the journal was sent. A lane sends no further than its reach beyond
// the first slot that the journal does not know as received; a recovery sends what lies
// within it again as duplicates, and the rest as new.
//
// Where the broker passes a QoS 2 message on at its release, C3 to C5 happen before the message is due:
// it is staged (internal/handoff/stage.go). It is released at its time, by a recovery as well.
//
// The comments at pgsource's statements and in internal/handoff give the reasons for each of
// these.
package reactor
