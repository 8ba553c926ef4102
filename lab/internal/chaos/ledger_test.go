package chaos

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
)

// lane plays an instance's connection before a ledger, in pieces of any size.
type lane struct {
	t      *testing.T
	ledger *ledger
	conn   int
	r      *rand.Rand
}

func (l *lane) pass(from netfault.Direction, write func(*bytes.Buffer) error) {
	l.t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		l.t.Fatal(err)
	}
	for rest := b.Bytes(); len(rest) > 0; {
		n := 1 + l.r.IntN(min(7, len(rest)))
		l.ledger.observe(0, netfault.Chunk{Conn: l.conn, Direction: from, Data: rest[:n]}, n)
		rest = rest[n:]
	}
}

// lost has a release go nowhere.
func (l *lane) lost(id uint16) {
	var b bytes.Buffer
	p := packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}
	if _, err := p.WriteTo(&b); err != nil {
		l.t.Fatal(err)
	}
	l.ledger.missed(0, netfault.Chunk{Conn: l.conn, Direction: netfault.ToServer, Data: b.Bytes()})
}

func (l *lane) connect() {
	l.conn++
	l.pass(netfault.ToServer, func(b *bytes.Buffer) error {
		p := packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "lane", Properties: &packets.Properties{}}
		_, err := p.WriteTo(b)
		return err
	})
}

func (l *lane) publish(id uint16, job int64) { l.publishAt(2, id, job) }

func (l *lane) publishAt(qos byte, id uint16, job int64) {
	l.pass(netfault.ToServer, func(b *bytes.Buffer) error {
		p := packets.Publish{Topic: "chaos/1", QoS: qos, PacketID: id, Payload: make([]byte, 300), Properties: &packets.Properties{
			User: []packets.User{{Key: "job-id", Value: strconv.FormatInt(job, 10)}},
		}}
		_, err := p.WriteTo(b)
		return err
	})
}

func (l *lane) release(id uint16) {
	l.pass(netfault.ToServer, func(b *bytes.Buffer) error {
		p := packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}
		_, err := p.WriteTo(b)
		return err
	})
}

// TestLedgerTellsWhoLostAJob: each way in which a message can go with a broker.
func TestLedgerTellsWhoLostAJob(t *testing.T) {
	for seed := range uint64(50) {
		l := newLedger()
		in := &lane{t: t, ledger: l, r: rand.New(rand.NewPCG(seed, 2))}
		in.connect()
		in.publish(1, 101) // known to the save, released in the next life
		l.saved(time.Now())
		in.publish(2, 102) // unknown to the save, released in the next life
		in.publish(3, 103) // released, and then comes the kill
		in.release(3)
		in.publish(4, 104) // never released
		in.publish(5, 105) // sent again to the next life
		in.publish(6, 106) // released just before the kill, and again after it
		in.release(6)
		in.publish(7, 110) // released, but not to the broker, before the kill
		in.lost(7)
		in.publishAt(1, 8, 108) // at QoS 1, and then comes the kill
		l.killed(time.Now())
		l.next()
		in.connect()
		in.publish(5, 105)
		for _, id := range []uint16{1, 2, 5, 6, 7} {
			in.release(id)
		}
		in.publishAt(1, 9, 109)
		in.publish(2, 107) // a packet id used again
		in.release(2)
		want := map[int64]fate{
			101: swallowed, 102: releasedIntoNothing, 103: releasedAtTheKill, 104: neverReleased,
			105: swallowed, 106: releasedAtTheKill, 107: swallowed,
			110: releasedUnderWay, 108: releasedAtTheKill, 109: swallowed, 999: neverReleased,
		}
		for job, f := range want {
			if got := l.fateOf(job); got != f {
				t.Errorf("seed %d, job %d: %v, want %v", seed, job, got, f)
			}
		}
		if l.kills() != 1 || !within(l.unsure(), time.Now()) || within(l.unsure(), time.Now().Add(time.Hour)) {
			t.Errorf("%d kills, unsure %v", l.kills(), l.unsure())
		}
	}
}

// TestLedgerKnowsHeirs: who releases what somebody else has sent has it from the journal, and
// so has who has lost the last commits.
func TestLedgerKnowsHeirs(t *testing.T) {
	for name, test := range map[string]struct {
		between func(l *ledger)
		want    fate
	}{
		"the same process":    {func(*ledger) {}, releasedIntoNothing},
		"another process":     {func(l *ledger) { l.started(0) }, releasedByAnHeir},
		"another's process":   {func(l *ledger) { l.started(1) }, releasedIntoNothing},
		"the journal lost":    {func(l *ledger) { l.forgot(time.Now()) }, releasedByAnHeir},
		"lost an hour before": {func(l *ledger) { l.forgot(time.Now().Add(-time.Hour)) }, releasedIntoNothing},
	} {
		l := newLedger()
		in := &lane{t: t, ledger: l, r: rand.New(rand.NewPCG(1, 3))}
		in.connect()
		l.saved(time.Now())
		in.publish(1, 1)
		l.killed(time.Now())
		l.next()
		test.between(l)
		in.connect()
		in.release(1)
		if got := l.fateOf(1); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestLedgerKnowsWhoSaved: a save of a later life does not have what an earlier one has lost.
func TestLedgerKnowsWhoSaved(t *testing.T) {
	l := newLedger()
	in := &lane{t: t, ledger: l, r: rand.New(rand.NewPCG(1, 4))}
	in.connect()
	in.publish(1, 1)
	l.saved(time.Now())
	in.publish(2, 2)
	l.killed(time.Now())
	l.next()
	l.saved(time.Now())
	l.killed(time.Now())
	l.next()
	in.connect()
	in.release(1)
	in.release(2)
	if one, two := l.fateOf(1), l.fateOf(2); one != swallowed || two != releasedIntoNothing {
		t.Errorf("%v, %v", one, two)
	}
}

// TestLedgerForgetsAStreamWithAHole: after bytes are gone it must not invent packets.
func TestLedgerForgetsAStreamWithAHole(t *testing.T) {
	l := newLedger()
	in := &lane{t: t, ledger: l, r: rand.New(rand.NewPCG(1, 1))}
	in.connect()
	l.observe(0, netfault.Chunk{Conn: in.conn, Direction: netfault.ToServer, Data: []byte{0x62, 1, 7}}, 3) // no PUBREL
	in.publish(1, 1)
	in.release(1)
	if got := l.fateOf(1); got != neverReleased {
		t.Errorf("%v", got)
	}
	in.connect() // another connection is not affected
	in.publish(2, 2)
	in.release(2)
	if got := l.fateOf(2); got != swallowed {
		t.Errorf("%v, want %v", got, swallowed)
	}
}
