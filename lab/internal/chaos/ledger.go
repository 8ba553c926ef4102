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

// ledger keeps, from the packets between instances and broker, what each broker was told:
// a killed broker takes the judge's own messages along, so what arrived at a subscriber
// does not tell who has lost what did not.
//
// A broker's life, from a start to a kill, is numbered. A message is released into nothing
// if its PUBREL goes to a life that never saw its PUBLISH: mosquitto answers that with
// success.
//
//	life 1: PUBLISH 5 ──► ◄── PUBREC 5        SIGKILL
//	life 2:               PUBREL 5 ──► ◄── PUBCOMP 5       nobody gets it
type ledger struct {
	mu       sync.Mutex
	lives    []life                  // guarded by mu; the last one is now
	saves    []time.Time             // guarded by mu; when each was asked for, in any life
	streams  map[stream]*assembly    // guarded by mu
	clients  map[connection]client   // guarded by mu
	owners   map[int]int             // guarded by mu; by proxy, how many processes there have been
	forgets  []time.Time             // guarded by mu; when the database lost commits
	messages map[packet]*publication // guarded by mu; the last PUBLISH of each packet id
	releases map[int64][]release     // guarded by mu, by job
}

// life of a broker.
type life struct {
	// saved is when its last save was asked for: what had been published to it before is known
	// to the lives after it.
	saved time.Time
	ended time.Time // zero: it lasts
}

type connection struct{ proxy, conn int }

// client is whose connection it is. Owners are processes: what one that was killed knew, the next
// one has from the journal.
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
	job   int64
	life  int
	owner owner
	at    time.Time
}

// release is a PUBREL.
type release struct {
	of    publication
	life  int
	owner owner
	at    time.Time
	lost  bool // it went nowhere: its connection had ended, what its sender could not know
}

func (r release) String() string {
	text := fmt.Sprintf("published to life %d at %s, released to life %d at %s", r.of.life, clock(r.of.at), r.life, clock(r.at))
	if r.owner != r.of.owner {
		text += " by another"
	}
	if r.lost {
		text += ", on the way"
	}
	return text
}

func clock(t time.Time) string { return t.Format("05.000") }

// assembly puts packets together again.
type assembly struct {
	buf    bytes.Buffer
	broken bool // it cannot be understood: bytes were dropped
}

func newLedger() *ledger {
	return &ledger{
		lives: make([]life, 1), streams: map[stream]*assembly{}, clients: map[connection]client{}, owners: map[int]int{},
		messages: map[packet]*publication{}, releases: map[int64][]release{},
	}
}

// saved notes that the broker has saved its state, being asked to at that time: the next
// life begins with it.
func (l *ledger) saved(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saves = append(l.saves, at)
	l.lives[len(l.lives)-1].saved = at
}

// started notes that an instance has a new process.
func (l *ledger) started(proxy int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[proxy]++
}

// forgot notes that the database has lost commits: whoever held a lane begins anew with what
// the journal says.
func (l *ledger) forgot(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgets = append(l.forgets, at)
}

// killed notes that a life has ended.
func (l *ledger) killed(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[len(l.lives)-1].ended = at
}

// next begins a life, with the last save.
func (l *ledger) next() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives = append(l.lives, life{})
}

// observe takes what one of the proxies lets through.
func (l *ledger) observe(proxy int, c netfault.Chunk, forwarded int) {
	c.Data = c.Data[:forwarded]
	l.take(proxy, c, false)
}

// missed takes what an instance, or the broker, has sent and a proxy did not let through.
func (l *ledger) missed(proxy int, c netfault.Chunk) { l.take(proxy, c, true) }

func (l *ledger) take(proxy int, c netfault.Chunk, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := stream{connection{proxy, c.Conn}, c.Direction}
	a := l.streams[key]
	if a == nil {
		a = &assembly{}
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
		l.note(key.connection, p, lost)
	}
}

// wholePacket is how many bytes the first packet has; 0 if it is not all there.
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

// note takes a packet. Of those that were lost only the releases count: who has sent one may
// not send the message again.
func (l *ledger) note(c connection, p *packets.ControlPacket, lost bool) {
	now, life, by := time.Now(), len(l.lives)-1, l.clients[c]
	switch content := p.Content.(type) {
	case *packets.Pubrel:
		if m := l.messages[packet{by.id, content.PacketID}]; m != nil {
			l.releases[m.job] = append(l.releases[m.job], release{*m, life, by.owner, now, lost})
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
		switch sent := (publication{job, life, by.owner, now}); {
		case !ok:
		case content.QoS == 2:
			l.messages[packet{by.id, content.PacketID}] = &sent
		default: // it is passed on at once
			l.releases[job] = append(l.releases[job], release{sent, life, by.owner, now, false})
		}
	}
}

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

// fate says what a job that nobody got was told to the broker.
type fate int

const (
	// neverReleased: the broker was never asked to pass it on.
	neverReleased fate = iota
	// releasedIntoNothing: to a broker that did not have it.
	releasedIntoNothing
	// releasedByAnHeir: to a broker that did not have it any more, by somebody who knew from the
	// journal that it had been received. Only who sent it could send it again: to the heir it
	// may have been released.
	releasedByAnHeir
	// releasedUnderWay: to a broker that did not have it any more, by somebody whose first
	// release, to one that had it, was lost with its connection. It may have been received.
	releasedUnderWay
	// releasedAtTheKill: to a broker that had it, and was killed so soon after that the
	// message may have gone with it.
	releasedAtTheKill
	// swallowed: to a broker that had it and lived on.
	swallowed
)

func (f fate) String() string {
	return [...]string{
		"never released", "released to a broker that did not have it",
		"released by the journal's word to a broker that did not have it any more",
		"released on the way to a broker that was killed, and again to one that did not have it any more",
		"released within a second of the kill", "released to a broker that had it and lived on",
	}[f]
}

// excused reports whether the loss is the broker's.
func (f fate) excused() bool {
	return f == releasedAtTheKill || f == releasedByAnHeir || f == releasedUnderWay
}

// fateOf a job. Of several releases the one that excuses its loss most counts: if the kill
// came between a PUBREL and its answer, repeating it can help nobody.
func (l *ledger) fateOf(job int64) fate {
	const delivery = time.Second // from PUBREL to the subscriber's kernel, on a laden machine
	l.mu.Lock()
	defer l.mu.Unlock()
	best := neverReleased
	underWay := false
	for _, r := range l.releases[job] {
		on := l.lives[r.life]
		had := r.of.life == r.life || !r.of.at.After(l.lives[r.of.life].saved)
		f := swallowed
		switch {
		case r.lost:
			underWay = underWay || had
			continue
		case !had && underWay:
			f = releasedUnderWay
		case !had && (r.owner != r.of.owner || l.forgotBetween(r.of.at, r.at)):
			f = releasedByAnHeir
		case !had:
			f = releasedIntoNothing
		case !on.ended.IsZero() && on.ended.Sub(r.at) < delivery:
			return releasedAtTheKill
		}
		best = max(best, f)
	}
	return best
}

// history of a job's releases, in lines.
func (l *ledger) history(job int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, r := range l.releases[job] {
		lines = append(lines, r.String())
	}
	for i, on := range l.lives {
		lines = append(lines, fmt.Sprintf("life %d saved at %s, ended at %s", i, clock(on.saved), clock(on.ended)))
	}
	return strings.Join(lines, "; ")
}

// forgotBetween reports whether the database has lost commits. The caller holds mu.
func (l *ledger) forgotBetween(from, to time.Time) bool {
	return slices.ContainsFunc(l.forgets, func(at time.Time) bool { return at.After(from) && at.Before(to) })
}

// unsure are the times in which a message may be delivered twice by no fault of ours: what
// the broker had in hand at a save it has again after a kill, and what was on its way at a
// kill is sent again.
func (l *ledger) unsure() []span {
	const before, after = 2 * time.Second, 6 * time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	var spans []span
	for _, at := range l.saves {
		spans = append(spans, span{at.Add(-before), at.Add(after)})
	}
	for _, on := range l.lives {
		if !on.ended.IsZero() {
			spans = append(spans, span{on.ended.Add(-before), on.ended.Add(after)})
		}
	}
	return spans
}

// kills is how many lives have ended.
func (l *ledger) kills() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lives) - 1
}
