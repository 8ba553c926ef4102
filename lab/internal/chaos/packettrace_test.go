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

// lane simulates an instance's connection. It passes the packets to the trace in chunks of random
// size.
type lane struct {
	t     *testing.T
	trace *packetTrace
	conn  int
	r     *rand.Rand
}

func (l *lane) pass(from netfault.Direction, write func(*bytes.Buffer) error) {
	l.t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		l.t.Fatal(err)
	}
	for rest := b.Bytes(); len(rest) > 0; {
		n := 1 + l.r.IntN(min(7, len(rest)))
		l.trace.observe(0, netfault.Chunk{Conn: l.conn, Direction: from, Data: rest[:n]}, n)
		rest = rest[n:]
	}
}

// lost passes a PUBREL to the trace that the broker does not get.
func (l *lane) lost(id uint16) {
	var b bytes.Buffer
	p := packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}
	if _, err := p.WriteTo(&b); err != nil {
		l.t.Fatal(err)
	}
	l.trace.observeLost(0, netfault.Chunk{Conn: l.conn, Direction: netfault.ToServer, Data: b.Bytes()})
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

// TestTraceTellsWhoLostAJob: every release state of a message is recognized.
func TestTraceTellsWhoLostAJob(t *testing.T) {
	for seed := range uint64(50) {
		l := newPacketTrace()
		in := &lane{t: t, trace: l, r: rand.New(rand.NewPCG(seed, 2))}
		in.connect()
		in.publish(1, 101) // in the save, released in the next incarnation
		l.saved(time.Now())
		in.publish(2, 102) // not in the save, released in the next incarnation
		in.publish(3, 103) // released just before the kill
		in.release(3)
		in.publish(4, 104) // never released
		in.publish(5, 105) // sent again to the next incarnation
		in.publish(6, 106) // released just before the kill, and again after it
		in.release(6)
		in.publish(7, 110) // released before the kill, but the release is lost; and again after the kill
		in.lost(7)
		in.publishAt(1, 8, 108) // at QoS 1, just before the kill
		l.killed(time.Now())
		l.nextIncarnation()
		in.connect()
		in.publish(5, 105)
		for _, id := range []uint16{1, 2, 5, 6, 7} {
			in.release(id)
		}
		in.publishAt(1, 9, 109)
		in.publish(2, 107) // the packet id is used again
		in.release(2)
		want := map[int64]releaseState{
			101: releasedNormally, 102: releasedWithoutMessage, 103: releasedAtKill, 104: neverReleased,
			105: releasedNormally, 106: releasedAtKill, 107: releasedNormally,
			110: releasedInTransit, 108: releasedAtKill, 109: releasedNormally, 999: neverReleased,
		}
		for job, f := range want {
			if got := l.releaseStateOf(job); got != f {
				t.Errorf("seed %d, job %d: %v, want %v", seed, job, got, f)
			}
		}
		if l.kills() != 1 || !within(l.repetitionTimes(), time.Now()) || within(l.repetitionTimes(), time.Now().Add(time.Hour)) {
			t.Errorf("%d kills, unsure %v", l.kills(), l.repetitionTimes())
		}
	}
}

// TestTraceOfSuccessors: a process that releases a message of an earlier process knows the message
// from the journal. So does the same process after the database has lost commits.
func TestTraceOfSuccessors(t *testing.T) {
	for name, test := range map[string]struct {
		between func(l *packetTrace)
		want    releaseState
	}{
		"the same process":    {func(*packetTrace) {}, releasedWithoutMessage},
		"another process":     {func(l *packetTrace) { l.started(0) }, releasedBySuccessor},
		"another's process":   {func(l *packetTrace) { l.started(1) }, releasedWithoutMessage},
		"commits lost":        {func(l *packetTrace) { l.commitsLost(time.Now()) }, releasedBySuccessor},
		"lost an hour before": {func(l *packetTrace) { l.commitsLost(time.Now().Add(-time.Hour)) }, releasedWithoutMessage},
	} {
		l := newPacketTrace()
		in := &lane{t: t, trace: l, r: rand.New(rand.NewPCG(1, 3))}
		in.connect()
		l.saved(time.Now())
		in.publish(1, 1)
		l.killed(time.Now())
		l.nextIncarnation()
		test.between(l)
		in.connect()
		in.release(1)
		if got := l.releaseStateOf(1); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestTraceOfSaves: a save of a later incarnation does not contain what an earlier one has lost.
func TestTraceOfSaves(t *testing.T) {
	l := newPacketTrace()
	in := &lane{t: t, trace: l, r: rand.New(rand.NewPCG(1, 4))}
	in.connect()
	in.publish(1, 1)
	l.saved(time.Now())
	in.publish(2, 2)
	l.killed(time.Now())
	l.nextIncarnation()
	l.saved(time.Now())
	l.killed(time.Now())
	l.nextIncarnation()
	in.connect()
	in.release(1)
	in.release(2)
	if one, two := l.releaseStateOf(1), l.releaseStateOf(2); one != releasedNormally || two != releasedWithoutMessage {
		t.Errorf("states %v and %v, want %v and %v", one, two, releasedNormally, releasedWithoutMessage)
	}
}

// TestTraceIgnoresABrokenStream: when bytes of a stream are missing, the trace must not find wrong
// packets in the rest.
func TestTraceIgnoresABrokenStream(t *testing.T) {
	l := newPacketTrace()
	in := &lane{t: t, trace: l, r: rand.New(rand.NewPCG(1, 1))}
	in.connect()
	l.observe(0, netfault.Chunk{Conn: in.conn, Direction: netfault.ToServer, Data: []byte{0x62, 1, 7}}, 3) // malformed: not a PUBREL
	in.publish(1, 1)
	in.release(1)
	if got := l.releaseStateOf(1); got != neverReleased {
		t.Errorf("%v", got)
	}
	in.connect() // another connection is not affected
	in.publish(2, 2)
	in.release(2)
	if got := l.releaseStateOf(2); got != releasedNormally {
		t.Errorf("%v, want %v", got, releasedNormally)
	}
}
