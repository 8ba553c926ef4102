package driver

import (
	"context"
	"errors"
	"fmt"
)

// Slot numbers a message that is on its way over one lane, 1 … LaneSlots. It is
// unique among the lane's messages that are not completed, and journalled with the claim. The
// MQTT sink uses it as the packet identifier, which is what lets another
// instance resume the very same exchange after a crash.
type Slot uint16

// LaneSlots is how many messages of one lane may be claimed and not yet
// settled. Fixed, because the slots of a journalled batch wrap around it: an
// instance with another number could not recover the batch.
const LaneSlots = 4096

// Plus returns the slot n places after s, on the ring of LaneSlots.
func (s Slot) Plus(n int) Slot { return Slot((int(s)-1+n)%LaneSlots) + 1 }

// Minus returns how many places s lies after t, on the ring of LaneSlots.
func (s Slot) Minus(t Slot) int { return (int(s) - int(t) + LaneSlots) % LaneSlots }

// Message is one publication, as a Session sends it.
type Message struct {
	Slot    Slot
	JobID   int64
	Topic   string
	Payload []byte
	// QoS is the MQTT quality of service to publish it with.
	QoS byte
	// Dup marks a message that may have been sent before (MQTT's DUP flag).
	Dup bool
}

// Ack is a step of one message's journey.
type Ack struct {
	Slot Slot
	Step Step
	// Code is the MQTT reason code; 0x80 and above is a refusal of this message
	// alone. With it the journey is over, whatever the step; but a slot that was
	// Released is free in any case, and CodeUnknownSlot says that it was before.
	Code   byte
	Reason string
}

// Step says how far a message has come.
type Step uint8

const (
	// Completed: the exchange is over and the slot is free at the broker. QoS 0: the
	// socket took the bytes; QoS 1: PUBACK.
	Completed Step = iota
	// Received: the broker has stored the message and remembers its slot until it is
	// released. QoS 2: PUBREC.
	Received
	// Released: the broker has nothing under the slot any more. QoS 2: PUBCOMP.
	Released
)

// Refused reports whether the broker refused the message.
func (a Ack) Refused() bool { return a.Code >= 0x80 }

// Sink publishes messages. mqttsink implements it.
type Sink interface {
	// Connect opens the session of one lane and returns when the broker has
	// accepted it. Connecting with a client id that another connection uses
	// makes the broker close that other one: this is the fence against an
	// instance that lost the lane and does not know it yet.
	//
	// A broker that refuses (login, protocol, QoS) yields a *ConnectRefusedError;
	// anything else is a passing failure, worth another try.
	Connect(ctx context.Context, opts ConnectOptions) (Session, error)
	// CheckIdentity makes sure that the broker keeps clients with different ids apart.
	// Some can be told not to (mosquitto: use_username_as_clientid), and then all lanes
	// share one session and mix up their slots. It connects with two client ids that nobody
	// has used, and must not find a session. It returns a *ConnectRefusedError if it does;
	// anything else is a passing failure. It should be called after a Connect that
	// succeeded, before anything is sent: such a broker closes that session's connection.
	CheckIdentity(ctx context.Context, qos byte) error
}

// ProbePrefix is what the client ids of connections begin with that are no lane's, and look at the
// broker, or for who else is there. It begins like those of lanes: a broker may allow no others.
const ProbePrefix = "reactor-probe-"

// ConnectOptions describe the session to open.
type ConnectOptions struct {
	ClientID string
	// QoS is the highest that will be published with.
	QoS byte
	// Fresh has the broker discard whatever session it keeps for ClientID. Mosquitto 2.0.11
	// does not save sessions that begin so.
	Fresh bool
	// Mark is what Session.Mark left in the session that is to be resumed. A session
	// that the broker resumes without it is another one: made anew after the broker had
	// lost ours, restored from a save older than the mark, or somebody else's.
	// Limits.Resumed is false then. It is true for a save that has the mark and lacks the
	// newest messages: those the lane has to send again whatever Resumed says. "" takes any
	// session for ours.
	Mark string
	// Acks receives acknowledgements in the order the broker sent them. It is
	// called by one goroutine of the session at a time, never from within
	// Publish, and not after Done is closed. The slice is the session's and valid
	// during the call only. It may call Publish; it must not block.
	Acks func([]Ack)
}

// Session is one network connection of a lane. It remembers no message: what is
// unacknowledged when it ends is the lane's to send again. All methods may be
// called from several goroutines.
type Session interface {
	// Limits are what the broker allows; constant for the session's life.
	Limits() Limits
	// Check returns the reason why a message can never be sent over this session
	// (too large, a topic MQTT forbids), or nil. Sending it all the same would make
	// the broker close the connection, with every message that is on its way.
	Check(m Message) error
	// Publish queues messages for sending, in order, and returns without waiting
	// for the network. The slice is the caller's again when it returns; a payload must not
	// be changed before the message is acknowledged or the session has ended. The caller
	// keeps the number of unacknowledged messages within Limits. It returns an error
	// only if the session has ended; then none, some or all of the messages may
	// have been sent.
	Publish(msgs []Message) error
	// Release tells the broker to forget the slots of messages it has Received: they
	// will not be sent again (QoS 2: PUBREL). Each is answered by Released, also
	// where the broker does not know the slot. Like Publish it does not wait. After an
	// error, that the session has ended, none of these has been sent.
	Release(slots []Slot) error
	// Unreleased returns, once Done is closed, slots whose release was queued and never
	// sent, for certain. The broker may be killed together with the connection, and be back
	// with an older state: for these, and no others, it can be asked again.
	Unreleased() []Slot
	// Mark leaves a mark in the broker's state of the session, by which a later Connect
	// recognizes it, and waits until it is there. Nobody may have used the mark before.
	// ErrCannotMark says that this broker does not allow it, or cannot tell the difference:
	// nothing was left then, and if the broker ended the session for it, the next one can
	// do without. After any other error there may or may not be a mark.
	Mark(ctx context.Context, mark string) error
	// PassesOn finds out when the broker of this session passes QoS 2 messages on to their
	// subscribers, by a message of its own, which leaves nothing behind. It takes up to a few
	// seconds, and does not disturb the session. The error says, in one line, why it is unclear.
	PassesOn(ctx context.Context) (Passing, error)
	// Done is closed when the connection is gone and Acks will not be called any
	// more.
	Done() <-chan struct{}
	// Err says why, once Done is closed: among others ErrSessionTakenOver, or a
	// *DisconnectedError.
	Err() error
	// Close flushes what is queued, says DISCONNECT and waits for the connection
	// to end, at most until ctx ends.
	Close(ctx context.Context) error
	// Discard is Close, and has the broker forget the session's state.
	Discard(ctx context.Context) error
}

// Passing is when a broker passes a QoS 2 message on: MQTT leaves it the choice [MQTT 5, 4.3.3].
type Passing uint8

const (
	// PassingUnclear: it could not be found out.
	PassingUnclear Passing = iota
	// PassesOnAtPublish: as soon as it has received the message.
	PassesOnAtPublish
	// PassesOnAtRelease: when the message is released, and not before.
	PassesOnAtRelease
)

// Limits bound what a lane may send over a session.
type Limits struct {
	// InFlight is how many messages may be unacknowledged at once.
	InFlight int
	// PacketBytes is the largest PUBLISH packet the broker takes, all included;
	// 0 means no limit but MQTT's own.
	PacketBytes int
	// QoS is the highest the broker takes.
	QoS byte
	// Resumed tells that the broker still had the session's state, and that it is the
	// one of ConnectOptions.Mark.
	Resumed bool
	// Present tells that the broker had some session under the client id, ours or not.
	Present bool
	// Marked tells that the session carries the whole of ConnectOptions.Mark. If not, it is
	// to be marked before anything is sent: anew, or because the broker has come to refuse
	// what it once allowed; then a mark that was still recognized this time will not be for
	// long.
	Marked bool
}

// ConnectRefusedError is a broker's answer that trying again will not change
// without somebody's help: a refused login, an unsupported protocol or QoS.
type ConnectRefusedError struct {
	// Broker is the address, without credentials.
	Broker string
	Code   byte
	// Reason says what was refused and what to do about it.
	Reason string
}

func (e *ConnectRefusedError) Error() string {
	return fmt.Sprintf("broker %s refused the connection: %s", e.Broker, e.Reason)
}

// ErrCannotMark: see Session.Mark.
var ErrCannotMark = errors.New("the broker does not let a session be told from another")

// ErrSessionTakenOver is why a session ended when another connection used its
// client id. Connecting again at once would take it back from its new owner.
var ErrSessionTakenOver = errors.New("the session was taken over by another connection with the same client id")

// DisconnectedError is why a session ended when the broker said so, with a reason.
type DisconnectedError struct {
	Code   byte // MQTT reason code
	Reason string
}

func (e *DisconnectedError) Error() string { return "the broker disconnected us: " + e.Reason }
