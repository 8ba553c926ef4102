package chaos

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/job-publisher/reactor/internal/netfault"
)

// TestTripwireFindsThePacket: whatever pieces the stream comes in, the connection breaks
// at the packet that was chosen.
func TestTripwireFindsThePacket(t *testing.T) {
	puback := []byte{0x40, 2, 0, 1}
	pingresp := []byte{0xd0, 0}
	long := append([]byte{0x30, 0xac, 0x02}, make([]byte, 300)...) // PUBLISH
	var stream []byte
	for _, p := range [][]byte{puback, pingresp, long, puback, long, puback, puback} {
		stream = append(stream, p...)
	}
	third := len(stream) - 2*len(puback) // where the third PUBACK begins
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		for _, before := range []bool{true, false} {
			want := third
			if !before {
				want += len(puback)
			}
			w := mqttPackets(netfault.ToClient)
			w.arm(trap{kind: 4, nth: 3, before: before, fault: netfault.FaultCut})
			passed := 0
			for rest := stream; len(rest) > 0; {
				n := 1 + r.IntN(min(40, len(rest)))
				v := w.hook(netfault.Chunk{Conn: 1, Direction: netfault.ToClient, Data: rest[:n]})
				if v.Then == netfault.FaultCut {
					passed += v.Forward
					break
				}
				passed += n
				rest = rest[n:]
			}
			// A header that came in pieces has passed in part before it was known.
			if passed != want && (!before || passed <= want || passed > want+1) {
				t.Fatalf("seed %d, before %t: %d bytes passed, want %d", seed, before, passed, want)
			}
		}
	}
}

// TestScheduleIsTheSeeds: the same seed, the same destruction.
func TestScheduleIsTheSeeds(t *testing.T) {
	texts := func(seed uint64) []string {
		var list []string
		for _, e := range schedule(Config{Seed: seed}.withDefaults()) {
			list = append(list, e.String())
		}
		return list
	}
	if a, b := texts(7), texts(7); len(a) == 0 || !reflect.DeepEqual(a, b) {
		t.Errorf("two schedules of one seed:\n%v\n%v", a, b)
	}
	if reflect.DeepEqual(texts(7), texts(8)) {
		t.Error("two seeds give one schedule")
	}
}
