package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
)

// packetTrace records the PUBLISH and PUBREL packets that the instances send to the broker. It
// shows whether the broker or an instance has lost a message. The messages that the subscriber
// has received do not show that, because a killed broker loses the subscriber's messages too.
//
// An incarnation of the broker lasts from a start to a kill; incarnations are numbered from 0. A
// message is lost if its PUBREL goes to an incarnation that does not have the PUBLISH: mosquitto
// answers such a PUBREL with success.
//
//	incarnation 1: PUBLISH 5 ──► ◄── PUBREC 5        SIGKILL
//	incarnation 2:               PUBREL 5 ──► ◄── PUBCOMP 5       the message is not delivered
type packetTrace struct {
	mu           sync.Mutex
	incarnations []incarnation           // guarded by mu; the last one is the current one
	saves        []time.Time             // guarded by mu; when each save was requested, in all incarnations
	streams      map[stream]*reassembly  // guarded by mu
	clients      map[connection]client   // guarded by mu
	owners       map[int]int             // guarded by mu; number of processes so far, by proxy
	commitLosses []time.Time             // guarded by mu; when the database lost commits
	messages     map[packet]*publication // guarded by mu; the last PUBLISH of each packet id
	releases     map[int64][]release     // guarded by mu, by job
}

// incarnation is the time of the broker from a start to a kill.
type incarnation struct {
	// saved is when its last save was requested. The following incarnations have the messages
	// that were published to it before.
	saved time.Time
	ended time.Time // zero for the current one
}

type connection struct{ proxy, conn int }

// client identifies the client of a connection. Its owner is a process of an instance. After a
// process was killed, the next one knows only what is in the journal.
type client struct {
	id    string
	owner owner
}

type owner struct{ proxy, process int }

type stream struct {
	connection
	from netfault.Direction
}

type packet struct {
	client string
	id     uint16
}

// publication is a PUBLISH at QoS 2.
type publication struct {
	job         int64
	incarnation int
	owner       owner
	at          time.Time
}

// release is a PUBREL.
type release struct {
	of          publication
	incarnation int
	owner       owner
	at          time.Time
	lost        bool // the broker did not get it because the connection had ended; the sender could not know that
}

func (r release) String() string {
	text := fmt.Sprintf("published to incarnation %d at %s, released to incarnation %d at %s", r.of.incarnation, clock(r.of.at), r.incarnation, clock(r.at))
	if r.owner != r.of.owner {
		text += " by another process"
	}
	if r.lost {
		text += ", lost in transit"
	}
	return text
}

func clock(t time.Time) string { return t.Format("05.000") }

// reassembly reassembles the packets of a stream from chunks.
type reassembly struct {
	buf    bytes.Buffer
	broken bool // the stream cannot be parsed any more, because bytes were dropped
}

func newPacketTrace() *packetTrace {
	return &packetTrace{
		incarnations: make([]incarnation, 1), streams: map[stream]*reassembly{}, clients: map[connection]client{}, owners: map[int]int{},
		messages: map[packet]*publication{}, releases: map[int64][]release{},
	}
}

// saved records that the broker has saved its state after a request at the time at. The next
// incarnation begins with this state.
func (l *packetTrace) saved(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saves = append(l.saves, at)
	l.incarnations[len(l.incarnations)-1].saved = at
}

// started records that an instance has a new process.
func (l *packetTrace) started(proxy int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[proxy]++
}

// commitsLost records that the database has lost commits. Then the owner of a lane also knows
// only what is in the journal.
func (l *packetTrace) commitsLost(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commitLosses = append(l.commitLosses, at)
}

// killed records that the current incarnation has ended.
func (l *packetTrace) killed(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incarnations[len(l.incarnations)-1].ended = at
}

// nextIncarnation begins an incarnation, with the state of the last save.
func (l *packetTrace) nextIncarnation() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incarnations = append(l.incarnations, incarnation{})
}

// observe records the first forwarded bytes of a chunk, which a proxy has forwarded.
func (l *packetTrace) observe(proxy int, c netfault.Chunk, forwarded int) {
	c.Data = c.Data[:forwarded]
	l.addChunk(proxy, c, false)
}

// observeLost records a chunk that an instance or the broker has sent and a proxy has not
// forwarded.
func (l *packetTrace) observeLost(proxy int, c netfault.Chunk) { l.addChunk(proxy, c, true) }

func (l *packetTrace) addChunk(proxy int, c netfault.Chunk, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := stream{connection{proxy, c.Conn}, c.Direction}
	a := l.streams[key]
	if a == nil {
		a = &reassembly{}
		l.streams[key] = a
	}
	if a.broken {
		return
	}
	a.buf.Write(c.Data)
	for {
		whole := wholePacket(a.buf.Bytes())
		if whole == 0 {
			return
		}
		p, err := packets.ReadPacket(bytes.NewReader(a.buf.Next(whole)))
		if err != nil {
			a.broken = true
			return
		}
		l.record(key.connection, p, lost)
	}
}

// wholePacket returns the size of the first packet in bytes, or 0 if the packet is incomplete.
func wholePacket(data []byte) int {
	if len(data) < 2 {
		return 0
	}
	length, n := binary.Uvarint(data[1:])
	if n <= 0 || len(data) < 1+n+int(length) {
		return 0
	}
	return 1 + n + int(length)
}

// record records a packet. Of the lost packets only a PUBREL matters: after it has sent one, an
// instance must not send the message again.
func (l *packetTrace) record(c connection, p *packets.ControlPacket, lost bool) {
	now, incarnation, by := time.Now(), len(l.incarnations)-1, l.clients[c]
	switch content := p.Content.(type) {
	case *packets.Pubrel:
		if m := l.messages[packet{by.id, content.PacketID}]; m != nil {
			l.releases[m.job] = append(l.releases[m.job], release{*m, incarnation, by.owner, now, lost})
		}
	}
	if lost {
		return
	}
	switch content := p.Content.(type) {
	case *packets.Connect:
		l.clients[c] = client{content.ClientID, owner{c.proxy, l.owners[c.proxy]}}
	case *packets.Publish:
		job, ok := jobOf(content)
		switch sent := (publication{job, incarnation, by.owner, now}); {
		case !ok:
		case content.QoS == 2:
			l.messages[packet{by.id, content.PacketID}] = &sent
		default: // at QoS 0 and 1 the broker delivers the message at once, without a release
			l.releases[job] = append(l.releases[job], release{sent, incarnation, by.owner, now, false})
		}
	}
}

// jobOf returns the job id of a message.
func jobOf(p *packets.Publish) (id int64, ok bool) {
	if p.Properties == nil {
		return 0, false
	}
	for _, u := range p.Properties.User {
		if u.Key == "job-id" {
			id, err := strconv.ParseInt(u.Value, 10, 64)
			return id, err == nil
		}
	}
	return 0, false
}

// releaseState says to which broker the message of a lost job was released. The order matters: see
// releaseStateOf.
type releaseState int

const (
	// neverReleased: no release was sent.
	neverReleased releaseState = iota
	// releasedWithoutMessage: the broker did not have the message.
	releasedWithoutMessage
	// releasedBySuccessor: the broker did not have the message any more. It was released by a
	// process that had not sent it, but had read in the journal that an earlier broker had received
	// it. This process must not send the message again, because the sender may have released it.
	releasedBySuccessor
	// releasedInTransit: the broker did not have the message any more. The process had released it
	// before to a broker that had it, but that release was lost with the connection. The process
	// must not send the message again, because the release could have arrived.
	releasedInTransit
	// releasedAtKill: the broker had the message, and was killed so soon after the release that it
	// may not have delivered the message.
	releasedAtKill
	// releasedNormally: the broker had the message and went on running.
	releasedNormally
)

func (f releaseState) String() string {
	return [...]string{
		"never released", "released to a broker that did not have it",
		"released, as the journal says, to a broker that did not have it any more",
		"released to a broker that was killed, which was lost in transit, and again to one that did not have it any more",
		"released within a second before the kill", "released to a broker that had it and went on running",
	}[f]
}

// acceptable reports whether the broker has lost the message, and not an instance.
func (f releaseState) acceptable() bool {
	return f == releasedAtKill || f == releasedBySuccessor || f == releasedInTransit
}

// releaseStateOf returns the state of a job's message. After several releases it is
// releasedAtKill if that is the state of one of them, because if the kill came between a PUBREL
// and its answer, a repeated PUBREL cannot help. Otherwise it is the largest one.
func (l *packetTrace) releaseStateOf(job int64) releaseState {
	const delivery = time.Second // longest time from PUBREL to the subscriber's kernel, on a busy machine
	l.mu.Lock()
	defer l.mu.Unlock()
	best := neverReleased
	inTransit := false
	for _, r := range l.releases[job] {
		on := l.incarnations[r.incarnation]
		had := r.of.incarnation == r.incarnation || !r.of.at.After(l.incarnations[r.of.incarnation].saved)
		f := releasedNormally
		switch {
		case r.lost:
			inTransit = inTransit || had
			continue
		case !had && inTransit:
			f = releasedInTransit
		case !had && (r.owner != r.of.owner || l.lostCommitsBetween(r.of.at, r.at)):
			f = releasedBySuccessor
		case !had:
			f = releasedWithoutMessage
		case !on.ended.IsZero() && on.ended.Sub(r.at) < delivery:
			return releasedAtKill
		}
		best = max(best, f)
	}
	return best
}

// history describes a job's releases and all incarnations, for the notes of a run.
func (l *packetTrace) history(job int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, r := range l.releases[job] {
		lines = append(lines, r.String())
	}
	for i, on := range l.incarnations {
		lines = append(lines, fmt.Sprintf("incarnation %d saved at %s, ended at %s", i, clock(on.saved), clock(on.ended)))
	}
	return strings.Join(lines, "; ")
}

// lostCommitsBetween reports whether the database has lost commits in a time. The caller holds mu.
func (l *packetTrace) lostCommitsBetween(from, to time.Time) bool {
	return slices.ContainsFunc(l.commitLosses, func(at time.Time) bool { return at.After(from) && at.Before(to) })
}

// repetitionTimes returns the times in which the broker may deliver a message twice. After a kill
// it delivers again the messages that it had not completed at the save, and the instances send
// again the messages that were in flight at the kill.
func (l *packetTrace) repetitionTimes() []span {
	const before, after = 2 * time.Second, 6 * time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	var spans []span
	for _, at := range l.saves {
		spans = append(spans, span{at.Add(-before), at.Add(after)})
	}
	for _, on := range l.incarnations {
		if !on.ended.IsZero() {
			spans = append(spans, span{on.ended.Add(-before), on.ended.Add(after)})
		}
	}
	return spans
}

// kills returns how many incarnations have ended.
func (l *packetTrace) kills() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.incarnations) - 1
}
