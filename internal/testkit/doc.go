// Package testkit gives tests real servers, proxies that make faults in real connections, and
// real processes that can be killed.
//
//	func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }
//
//	func TestSomething(t *testing.T) {
//		t.Parallel()
//		url := testkit.NewDatabase(t)      // a migrated database for this test only
//		broker := testkit.Broker(t)        // shared by the package's tests
//		prefix := testkit.TopicPrefix(t)   // topics for this test only
//		proxy := testkit.NewProxy(t, url)  // can cut, stall and drop
//		…
//	}
//
// With REACTOR_TEST_POSTGRES=/folder/of/programs the tests run on another version of
// PostgreSQL (see stack.PostgresVariable).
//
// All tests of a package share one PostgreSQL and one Mosquitto. Each is started when the
// first test needs it. Tests that stop or kill a server start their own with OwnPostgres and
// OwnMosquitto. OwnPgBouncer is a connection pooler. Standby and Copy are a standby and a
// physical copy of a server. If a server program is not installed, the test fails; it is not
// skipped.
package testkit
