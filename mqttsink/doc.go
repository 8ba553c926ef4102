// Package mqttsink implements reactor's Sink on MQTT: it sends messages to a broker that speaks
// MQTT 5, and reports the broker's answers.
//
// # Use
//
// New checks a Config and does not connect. The Sink that it returns goes to reactor.New, which
// connects its lanes:
//
//	sink, err := mqttsink.New(mqttsink.Config{URL: "mqtt://user:password@localhost:1883"})
//	r, err := reactor.New(source, sink, reactor.Config{})
//
// The user needs the right to publish to the jobs' topics, to subscribe to reactor/session/#, and to
// publish and subscribe to reactor/stage/#.
//
// # Sessions
//
// A Session is one network connection with two goroutines:
//
//	Publish ──encode──► buffer ──writer──► socket        one write for all messages that
//	                                                     arrived during the last write
//	Acks ◄──────────── reader ◄── bufio ◄── socket       one call for all answers of one read
//
// While many answers are outstanding, reads wait for several of them (gather.go): then nobody waits
// for a single answer, and handling each by itself costs more than everything else for its message.
//
// It requests the broker's session as it was left (Clean Start 0), and that the broker keeps it
// while nobody is connected (Session Expiry): the packet identifiers that the broker remembers in
// it let the broker recognize a repeated message. A session that exists is not necessarily ours. A
// mark in it shows that it is (mark.go), if the broker reports whether a subscription exists and
// allows us one. And a client id of our own does not give us a session of our own at a broker that
// identifies clients otherwise (identity.go).
//
// # Several brokers
//
// Config.URL may list several brokers. All sessions go to one of them (choice.go). It is left when it cannot
// be reached, or accepts sessions and does not work (working.go, suspicion.go), and lanes are asked to leave its
// standby when a preferred one works again (returning.go, driver.Session.ShouldLeave).
//
// # Promises
//
//   - Messages are sent in the order of the calls of Publish; answers are reported in the order in
//     which the broker sent them.
//   - Each message ends in one of three ways: Check refuses it before it is sent; the broker
//     answers it, perhaps with a reason code that refuses it; or the session ends first, and the
//     outcome is unknown.
//   - A message costs no goroutine, no channel and no allocation of its own.
//   - No error contains the URL or a password.
//
// # What it does not promise
//
// A Session remembers no message. What is unacknowledged when the connection ends belongs to the
// lane, which sends it again over its next session. The same holds for the exchange at QoS 2: the
// session reports PUBREC and PUBCOMP as steps of a message, and sends PUBREL only when it is told
// to (Release). It does not reconnect, and it subscribes to nothing but its own marks.
//
// # Broken connections
//
// A broken connection is noticed after a time that depends on its cause:
//
//	the broker's host is gone         WriteTimeout: its system acknowledges nothing
//	the broker reads nothing          WriteTimeout, once its buffers and ours are full
//	the broker does nothing at all    one and a half KeepAlive, in which it answers no ping
//
// The last limit is the longest, and is not shortened while answers are outstanding. A broker that
// is stopped, or saves its state, answers neither a ping nor a CONNECT: another connection would
// achieve nothing, and every unacknowledged message would have to be sent again. The lane knows how
// old its oldest unanswered message is, for whoever wants to know sooner that nothing is being
// published.
//
// # Why not paho's client
//
// The package uses paho.golang's packet codec, with a session of its own. The state that must
// survive a crash is reactor's, and is in Postgres; a session store of the client would be a second
// record of it, which could disagree. And the client uses a goroutine, a channel and a context for
// each message, which is too expensive at tens of thousands of messages a second
// (docs/adr/0003-mqtt.md).
package mqttsink
