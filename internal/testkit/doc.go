// Package testkit gives tests real servers, faults in real connections, and real
// processes to kill.
//
//	func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }
//
//	func TestSomething(t *testing.T) {
//		t.Parallel()
//		url := testkit.NewDatabase(t)      // a migrated database of this test's own
//		broker := testkit.Broker(t)        // shared by the package's tests
//		prefix := testkit.TopicPrefix(t)   // this test's own corner of it
//		proxy := testkit.NewProxy(t, url)  // cuts, stalls, drops
//		…
//	}
//
// With REACTOR_TEST_POSTGRES=/folder/of/programs the tests run on another version of
// PostgreSQL (see stack.PostgresVariable).
//
// One PostgreSQL and one Mosquitto serve all tests of a package; each is started
// by the first test that wants it. Tests that stop or kill a server start their
// own with OwnPostgres and OwnMosquitto; OwnPgBouncer is a pooler in between, Standby and
// Copy are what becomes of a database elsewhere. A missing server program fails the test:
// nothing here skips.
package testkit
