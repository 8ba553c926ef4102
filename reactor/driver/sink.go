package driver

import (
	"context"
	"errors"
	"fmt"
)

// Slot is the number of a message in flight on one lane, 1 … LaneSlots. It is unique among the
// messages of the lane whose exchange has not ended, and journalled with the claim. The MQTT sink
// uses it as the packet identifier, so another instance can resume the same exchange after a crash.
type Slot uint16

// LaneSlots is how many messages of one lane may be claimed and not yet settled. It is fixed,
// because the slots of a journalled batch wrap around at this number: an instance with another
// number could not recover the batch.
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
	// Expiry is after how many seconds the broker is to forget the message if it could not deliver
	// it; 0: never.
	Expiry uint32
	// Properties may be nil.
	Properties *Properties
	// Dup marks a message that may have been sent before (MQTT's DUP flag).
	Dup bool
}

// Ack reports one step of the exchange of one message.
type Ack struct {
	Slot Slot
	Step Step
	// Code is the MQTT reason code. 0x80 and above refuses this message, and no other; the exchange
	// of the message has then ended, whatever the step. A slot that is Released is free with any
	// code; CodeUnknownSlot says that it was free before.
	Code   byte
	Reason string
}

// Step says how far the exchange of a message has got.
type Step uint8

const (
	// Completed: the exchange has ended, and the slot is free at the broker. QoS 0: the operating
	// system has accepted the bytes; QoS 1: PUBACK.
	Completed Step = iota
	// Received: the broker has stored the message, and remembers its slot until it is released.
	// QoS 2: PUBREC.
	Received
	// Released: the broker has forgotten the slot. QoS 2: PUBCOMP.
	Released
)

// Refused reports whether the broker refused the message.
func (a Ack) Refused() bool { return a.Code >= 0x80 }

// Sink publishes messages. mqttsink implements it.
type Sink interface {
	// Connect opens the session of one lane, and returns when the broker has accepted it. If
	// another connection uses the same client id, the broker closes that one: this fences an
	// instance that has lost the lane and does not know it yet.
	//
	// If the broker refuses (login, protocol, QoS), it returns a *ConnectRefusedError. Any other
	// error is temporary, and the call may be repeated.
	Connect(ctx context.Context, opts ConnectOptions) (Session, error)
	// CheckIdentity checks that the broker gives clients with different ids different sessions.
	// Some brokers can be configured otherwise (mosquitto: use_username_as_clientid), and then all
	// lanes share one session and mix up their slots. It connects with two client ids that nobody
	// has used, and expects to find no session. If it finds one, it returns a
	// *ConnectRefusedError; any other error is temporary. broker is Limits.Broker of the session
	// that is about to be used: of several brokers that one is checked. With "" it is the one in use. Call
	// it after a successful Connect and before anything is sent: a broker of this kind closes the
	// connection of that session.
	CheckIdentity(ctx context.Context, broker string, qos byte) error
}

// ProbePrefix begins the client ids of connections that belong to no lane, and only check the
// broker or look for other clients. It has the same beginning as the client ids of lanes, because a
// broker may allow no others.
const ProbePrefix = "reactor-probe-"

// ConnectOptions describe the session to open.
type ConnectOptions struct {
	ClientID string
	// QoS is the highest QoS of the messages to be published.
	QoS byte
	// Fresh makes the broker discard any session that it keeps for ClientID. Mosquitto 2.0.11
	// does not save a session that begins in this way.
	Fresh bool
	// Mark is the mark that Session.Mark has put into the session to be resumed. If the broker
	// resumes a session without it, that is another session: created after the broker had lost
	// ours, restored from a save that is older than the mark, or somebody else's. Limits.Resumed is
	// false then. It is true for a restored save that has the mark and lacks the newest messages:
	// the lane has to send these again whatever Resumed says. With "" any session counts as ours.
	Mark string
	// Broker is Limits.Broker of the lane's last session, if the lane knows it. A Sink that has several
	// brokers needs it for sessions without a mark: at another broker a session that is there cannot
	// be the lane's last.
	Broker string
	// Unsettled means that what becomes of messages in flight is known only to the session at Broker. A Sink
	// that has gone back to a preferred broker since connects such a lane to the old one again, as long as
	// it can be reached, so that the lane can settle them there and then leave.
	Unsettled bool
	// MayPublish reports whether queued messages may still be sent. It is asked just before they are
	// written, and must not block; if it says no, the session ends with ErrSessionGivenUp, and what is queued is not
	// sent. That is for a process that was frozen; the lane itself queues nothing while its lease is in doubt. With
	// Limits.OtherBrokers it is asked for everything, and else for messages below QoS 2 alone. nil: they may.
	MayPublish func() bool
	// Acks receives acknowledgements in the order in which the broker sent them. One goroutine of
	// the session at a time calls it, never from within Publish, and not after Done is closed. The
	// slice belongs to the session, and is valid only during the call. Acks may call Publish; it
	// must not block.
	Acks func([]Ack)
}

// Session is one network connection of a lane. It stores no message: the lane has to send the
// unacknowledged messages again when the session has ended. All methods may be called from several
// goroutines.
type Session interface {
	// Limits are the limits that the broker allows. They do not change during the session.
	Limits() Limits
	// Check returns the reason why a message can never be sent over this session (too large, a
	// topic that MQTT forbids), or nil. If it were sent, the broker would close the connection,
	// which interrupts all messages in flight.
	Check(m Message) error
	// Publish queues messages for sending, in order, and returns without waiting for the network.
	// The caller may use the slice again when it returns; a payload must not be changed before the
	// message is acknowledged or the session has ended. The caller keeps the number of
	// unacknowledged messages within Limits. Publish returns an error only if the session has
	// ended; then none, some or all of the messages may have been sent.
	Publish(msgs []Message) error
	// Release tells the broker to forget the slots of messages that it has Received: they will not
	// be sent again (QoS 2: PUBREL). Each is answered by Released, even if the broker does not know
	// the slot. Like Publish it does not wait. It returns an error only if the session has ended;
	// then none of these releases has been sent.
	Release(slots []Slot) error
	// Unreleased returns, once Done is closed, the slots whose release was queued and certainly
	// never sent. If the broker was killed together with the connection, and has restored an older
	// state, only the messages in these slots may be sent again.
	Unreleased() []Slot
	// Mark puts a mark into the broker's state of the session, by which a later Connect recognizes
	// the session. It returns when the mark is there. Nobody may have used the mark before.
	// ErrCannotMark means that this broker does not allow it, or does not say whether a session has
	// a mark. Then the session has no mark; if the broker has ended the session because of it, the
	// next session can work without. After any other error the session may or may not have the
	// mark.
	Mark(ctx context.Context, mark string) error
	// PassesOn finds out when the broker of this session passes QoS 2 messages on to their
	// subscribers, by a message of its own, which leaves nothing behind. It takes up to a few
	// seconds, and does not disturb the session. The error says, in one line, why it is unclear:
	// with ErrCannotAsk this will be the same next time.
	PassesOn(ctx context.Context) (Passing, error)
	// ShouldLeave reports whether the lane should end this session, once nothing is in flight, and
	// connect again: its Sink prefers another broker, which works. It may ask that broker,
	// which takes up to the time that connecting may take. It may also find out that the session's own
	// broker does not work, and then ends the session (ErrSessionGivenUp). To be called now and then if
	// Limits.Standby or Limits.OtherBrokers is set.
	ShouldLeave(ctx context.Context) bool
	// Done is closed when the connection has ended and Acks will not be called any more.
	Done() <-chan struct{}
	// Err returns why the session has ended, once Done is closed: among others
	// ErrSessionTakenOver, ErrSessionGivenUp, or a *DisconnectedError; with ErrBrokerDoubted if
	// the broker may not work.
	Err() error
	// Close sends what is queued, then DISCONNECT, and waits until the connection ends, at most
	// until ctx ends.
	Close(ctx context.Context) error
	// Abort ends the connection at once. Nothing that is queued is sent any more, not even by the
	// operating system. It returns when Done is closed. For a lane that has another owner now.
	Abort()
	// Discard does the same as Close, and makes the broker forget the session's state.
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

// ErrCannotAsk: see Session.PassesOn.
var ErrCannotAsk = errors.New("the broker does not let us find out when it passes messages on")

// Limits bound what a lane may send over a session.
type Limits struct {
	// InFlight is how many messages may be unacknowledged at once.
	InFlight int
	// PacketBytes is the length of the largest PUBLISH packet that the broker accepts, including
	// its header; 0 means no limit except MQTT's own.
	PacketBytes int
	// QoS is the highest QoS that the broker accepts.
	QoS byte
	// NoRetain means that the broker refuses messages with Properties.Retain.
	NoRetain bool
	// Resumed means that the broker still had the session's state, and that the session carries
	// ConnectOptions.Mark.
	Resumed bool
	// Present means that the broker had some session for the client id, ours or another one.
	Present bool
	// Broker names the broker: its host and port.
	Broker string
	// Standby means that the Sink prefers another broker: one that did not work, or has become usable
	// meanwhile.
	Standby bool
	// OtherBrokers means that the lane's next owner may be at another broker, where this session is not. So
	// messages are released only while the lane's lease holds, as they are published.
	OtherBrokers bool
	// Marked means that the session carries the whole of ConnectOptions.Mark. Otherwise the lane
	// has to mark it before anything is sent: the session may be new, or the broker may now refuse
	// what it allowed before; then the mark was recognized this time, but may not be the next time.
	Marked bool
}

// ConnectRefusedError is an answer of the broker that does not change until somebody changes a
// setting: a refused login, an unsupported protocol or QoS.
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
var ErrCannotMark = errors.New("sessions cannot be marked at this broker")

// ErrSessionTakenOver: the session ended because another connection used its client id. Connecting
// again at once would take the session from its new owner.
var ErrSessionTakenOver = errors.New("the session was taken over by another connection with the same client id")

// ErrSessionGivenUp: we have ended the session ourselves, by Abort, or because something was queued that
// must not be sent (ConnectOptions.MayPublish), or because its broker was left for another one. That says nothing
// about a message that was sent over it, nor about anybody else.
var ErrSessionGivenUp = errors.New("the session was given up")

// ErrBrokerDoubted: the broker has ended the session without having answered a message, and it is not known yet
// whether it does so to others as well. So the message need not be the cause. The error says in addition how the session
// has ended. A Sink with several brokers finds out which it is, and leaves a broker that does not work.
var ErrBrokerDoubted = errors.New("whether the broker works is not known yet")

// DisconnectedError is the error of a session that ended because the broker sent a DISCONNECT with a
// reason.
type DisconnectedError struct {
	Code   byte // MQTT reason code
	Reason string
}

func (e *DisconnectedError) Error() string { return "the broker disconnected us: " + e.Reason }
