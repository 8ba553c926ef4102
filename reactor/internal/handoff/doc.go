// Package handoff is the hand-off of jobs over one lane: from a claim, through the exchange
// with the broker, to the settlement in the journal. It is a state machine without mutex,
// clock, I/O, log or metrics. Each method is one event; it returns the Effects that the caller
// has to carry out. So the tests can drive the same machine that runs in production: through
// every order of events (model_test.go), through random orders, and by a fuzzer.
//
// # The life of a message
//
// A batch is what one claim took. Each of its jobs has a slot, which is the packet
// identifier of its message. The state of a slot:
//
//	       launch        send         PUBACK; at QoS 0, written
//	held ────────► queued ────► sent ─────────────────────────────────► ended
//	 │               │  ▲       │ │                                       ▲
//	 │               │  └───────┘ │ connection lost: again, as DUP        │
//	 │               │            │ PUBREC        recorded        PUBCOMP │
//	 │               │            └──────► received ────► releasing ──────┘
//	 │               │                       │  ▲            │
//	 │               │                       └──┘◄───────────┘ connection lost, and PUBREL
//	 │               │                        cannot have been sent: PUBLISH again, as DUP,
//	 │               │                        and PUBREL only after another PUBREC
//	 └───────────────┴────► free (handed back: never sent)
//
// A message that is refused, has expired or cannot be sent goes from its present state to
// ended. If the broker loses its session, received and releasing messages go back to queued, or
// to ended as failed (Config.FailLost).
//
// # The rules
//
//  1. PUBREL is not sent before the journal says that the broker has received the message:
//     a recovery would send the message again, and the broker would have forgotten it.
//  2. A slot is not used again before its message has ended and its batch has left the
//     journal: the broker would take the new message for the old one.
//  3. What was received, and for which PUBREL cannot have been sent, is sent again over each
//     new connection before it is released: the broker may have been killed, and be back with
//     an older state, and it confirms the release of what it does not know.
//  4. A message for which others of its batch wait can always be sent (overtaking.go).
//  5. What lies beyond the reach of a batch was never sent; a recovery sends it as new.
//
// The caller has to keep a sixth rule: first the broker accepts the connection, then the caller
// confirms the lease, and only then it calls Connect.
package handoff
