// Package mqttsink sends reactor's messages to an MQTT 5 broker.
//
// It uses paho.golang's packet codec under a session of its own, not paho's client:
// what must survive a crash is reactor's and in Postgres, the client's session store
// would be a second truth beside it; and a goroutine, a channel and a context per
// message are what a pipeline of tens of thousands a second cannot afford
// (docs/adr/0003-mqtt.md).
//
// A Session is one network connection with two goroutines:
//
//	Publish ──encode──► buffer ──writer──► socket        coalesced: one write for all
//	                                                     that came during the last
//	Acks ◄──────────── reader ◄── bufio ◄── socket       one call for all that one read
//	                                                     brought
//
// While many answers are on their way they are left to gather before they are read
// (gather.go): then nobody waits for a single one, and each by itself costs more than all
// the rest of its message.
//
// It remembers no message. What is unacknowledged when the connection ends belongs to
// the lane, which sends it again over the next one. So does the exchange at QoS 2: the
// session reports PUBREC and PUBCOMP as steps of a message, and sends PUBREL when it is
// told to (Release), never by itself.
//
// It asks for the broker's session as it was left (Clean Start 0) and for it to be kept
// while nobody is connected (Session Expiry), for the packet identifiers that the broker
// remembers in it are what makes a repeated message recognizable. That a session is there
// does not say that it is ours: a mark in it does (mark.go), where the broker can tell
// whether a subscription exists and lets us have one. Nor does a client id of our own make
// a session ours alone, at a broker that identifies clients otherwise (identity.go).
//
// How a dead connection is noticed:
//
//	the broker's host is gone       its system acknowledges nothing for WriteTimeout
//	the broker reads nothing        for WriteTimeout, when its buffers and ours are full
//	the broker does nothing at all  it is silent for one and a half KeepAlive, pings included
//
// The last limit is the longest, and is no shorter while answers are due. A broker that is
// stopped, or saves its state, answers neither a ping nor a CONNECT: another connection
// would get nothing done, and what is on its way would have to be sent again. Whoever
// wants to know sooner that nothing gets done looks at the age of what is unanswered, which
// the lane knows.
//
// How a message can end: refused by Check, before it is sent; acknowledged, with a
// reason code that may be a refusal; or unknown, when the session ends first.
package mqttsink
