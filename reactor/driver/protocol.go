package driver

import "fmt"

// The protocol is what the instances of a deployment say to each other, all of it through tables:
//
//   - membership: what a heartbeat means, when another one has lapsed, who may take what, under which lock
//   - leases: the epoch of a lane, and that each new owner raises it
//   - the journal: what a row of it means, which slots its jobs have, what Concluded, Round and Reach stand for
//   - the session of a lane at the broker: its client id, and the mark by which an owner recognizes it
//   - the token of a claim, how jobs return to the table, and what notifications say
//
// Its version says whether instances of two programs may run beside each other. It is not the version of the schema: a
// column that others need not understand changes the schema only. The rules, for whoever changes it:
//
//  1. What an instance says has to be understood by those of the version before. If it cannot be, raise Protocol, say
//     the old while an instance lives that knows no newer, and the new when none does.
//  2. Raise OldestProtocol only where the old can no longer be said, or understood. Then a rolling upgrade needs a
//     version in between, and the change log has to say so.
//
// The versions:
//
//	1  0.1.0
//	2  the lock of the membership is that of a row of reactor.shards; beside it that of protocol 1 is taken,
//	   which a later version may leave out where no instance speaks 1 only
//
// An instance joins only if it and every living member understand each other, and says otherwise in one line what to
// do (Protocols.Check). Programs before version 7 of the schema say nothing, and speak protocol 1.
const (
	// Protocol is the newest protocol that this program speaks.
	Protocol = 2
	// OldestProtocol is the oldest that it understands.
	OldestProtocol = 1
)

// Protocols are those that a program understands, from Oldest to Newest.
type Protocols struct{ Oldest, Newest int }

// OurProtocols are those of this program.
var OurProtocols = Protocols{Oldest: OldestProtocol, Newest: Protocol}

// Understands reports whether there is a protocol that both know.
func (p Protocols) Understands(other Protocols) bool {
	return p.Oldest <= other.Newest && other.Oldest <= p.Newest
}

// Check returns a *ProtocolError if the two do not understand each other. name is that of the other instance, and
// version that of its program; "": not known.
func (p Protocols) Check(other Protocols, name, version string) error {
	if p.Understands(other) {
		return nil
	}
	return &ProtocolError{Ours: p, Theirs: other, Name: name, Version: version}
}

// String is the range in words.
func (p Protocols) String() string {
	if p.Oldest == p.Newest {
		return fmt.Sprint(p.Newest)
	}
	return fmt.Sprintf("%d to %d", p.Oldest, p.Newest)
}

// ProtocolError says that an instance is running that this one does not understand, or that does not understand it. Join has
// changed nothing, and trying again does not help while that instance runs.
type ProtocolError struct {
	Ours, Theirs  Protocols
	Name, Version string // of the other instance
}

func (e *ProtocolError) Error() string {
	other := e.Name
	if e.Version != "" {
		other += " (reactor " + e.Version + ")"
	}
	remedy := "upgrade this one, or stop that one first"
	if e.Theirs.Newest < e.Ours.Oldest {
		remedy = "upgrade that one first, by way of a version that understands both, or stop it"
	}
	return fmt.Sprintf("instance %s is running and speaks protocol %s, and this reactor understands %s: %s", other, e.Theirs, e.Ours, remedy)
}
