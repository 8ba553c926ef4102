package bench

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestFloorsAndVariantsAreMeasured looks at what a measurement contains, and not at how late jobs
// were: beside other tests on two cores that says nothing. docs/benchmarks.md has the figures, and
// scripts/benchmarks.sh takes them.
func TestFloorsAndVariantsAreMeasured(t *testing.T) {
	cfg := work(400)
	cfg.Delivery, cfg.Load.Rate, cfg.Load.Ahead = reactor.ExactlyOnce, 400, 1500*time.Millisecond
	cfg.Floor, cfg.Rounds, cfg.CompareFlags = true, 2, []string{"--stage=off"}
	r := measure(t, cfg)
	if r.Floor == nil || r.FloorQoS1 == nil || r.Reactor.ToFloor == nil || r.Reactor.ToFloorQoS1 == nil || len(r.Variants) != 1 {
		t.Fatalf("a measurement is missing: %+v", r)
	}
	for _, m := range r.all() {
		if len(m.Rounds) != cfg.Rounds || m.Jobs != cfg.Load.Jobs || m.Lost != 0 || m.Duplicated != 0 || m.Early != 0 || m.LatenessMillis.P50 <= 0 {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
	if to := r.Reactor.ToFloorQoS1.P50; to.Min <= 0 || to.Max < to.Min {
		t.Errorf("%v × as late as the floor of QoS 1", to)
	}
	checkOutput(t, r, "floor QoS 1", "multiple of the floor of QoS 1", "reactor --stage=off")
}

// TestFloorPublishesEachJobOnce: also more jobs of one instant than the broker's window takes,
// and at QoS 2 each has a committed row.
func TestFloorPublishesEachJobOnce(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.AtMostOnce, reactor.AtLeastOnce, reactor.ExactlyOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			const jobs = 2500
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			database, broker := testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
			conn := connectTo(t, ctx, database)
			if _, err := conn.Exec(ctx, floorTable); err != nil {
				t.Fatal(err)
			}
			load := Load{Jobs: jobs - 100, SameInstant: true, Ahead: time.Second, PayloadBytes: 200, Topics: 3}
			if _, err := load.insert(ctx, conn); err != nil {
				t.Fatal(err)
			}
			load = Load{Jobs: 100, Rate: 200, Ahead: time.Second, Topics: 3}
			if _, err := load.insert(ctx, conn); err != nil {
				t.Fatal(err)
			}
			sub, err := subscribe(ctx, broker, topicPrefix+"+", jobs)
			if err != nil {
				t.Fatal(err)
			}
			defer sub.close()
			if err := (Bare{DatabaseURL: database, BrokerURL: broker, Kind: Floor, Delivery: delivery, After: noneStored}).Drain(ctx); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < jobs; n, err = sub.count() {
				if err != nil || ctx.Err() != nil {
					t.Fatalf("%d of %d have arrived: %v", n, jobs, err)
				}
			}
			list, err := expected(ctx, conn, loadCondition(noneStored), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if err := check.Compare(list, sub.all(), check.Config{}).Err(); err != nil {
				t.Error(err)
			}
			var rows, recorded int
			if err := conn.QueryRow(ctx, "SELECT count(*), coalesce(sum(cardinality(packets)), 0) FROM reactor_bench_floor").Scan(&rows, &recorded); err != nil {
				t.Fatal(err)
			}
			if want := map[reactor.Delivery]int{reactor.ExactlyOnce: jobs}[delivery]; recorded != want {
				t.Errorf("%d messages are in the %d rows, want %d", recorded, rows, want)
			}
		})
	}
}

func connectTo(t *testing.T, ctx context.Context, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TestFloorWritesAnInstantAtOnce looks at what one read brings. Only the listener can tell, so here
// it is no real broker.
func TestFloorWritesAnInstantAtOnce(t *testing.T) {
	const jobs = 100
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	first := make(chan int, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := packets.ReadPacket(conn); err != nil {
			return
		}
		_, _ = (&packets.Connack{Properties: &packets.Properties{}}).WriteTo(conn)
		buf := make([]byte, 1<<20)
		n, _ := conn.Read(buf)
		first <- n
		_, _ = io.Copy(io.Discard, conn)
	}()
	f, err := dialFloor(context.Background(), "mqtt://"+listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	at, total, list := time.Now().Add(50*time.Millisecond), 0, []floorJob(nil)
	for i := range int64(jobs) {
		job, err := newFloorJob(0, i, "a/b", []byte("payload"), at)
		if err != nil {
			t.Fatal(err)
		}
		list, total = append(list, job), total+len(job.packet)
	}
	if err := f.publish(list); err != nil {
		t.Fatal(err)
	}
	f.end()
	// The DISCONNECT may have followed before the read.
	if n := <-first; n < total || n > total+2 {
		t.Errorf("the first read brought %d bytes, want the %d of all jobs", n, total)
	}
}

// TestFloorThatIsTooLateSaysSo: its lateness would be that of its start.
func TestFloorThatIsTooLateSaysSo(t *testing.T) {
	ctx := context.Background()
	database := testkit.NewDatabase(t)
	if _, err := connectTo(t, ctx, database).Exec(ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('"+topicPrefix+"1', now())"); err != nil {
		t.Fatal(err)
	}
	err := Bare{DatabaseURL: database, BrokerURL: testkit.Broker(t).URL(), Kind: Floor, Delivery: reactor.AtLeastOnce, After: noneStored}.Drain(ctx)
	if err == nil || err.Error() != "the floor was not ready when the first job was due: insert the jobs longer --ahead" {
		t.Error(err)
	}
}
