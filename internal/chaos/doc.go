// Package chaos destroys a whole deployment while jobs fall due, and then asks the one
// judge (package check) whether the promise was kept.
//
//	                 ┌── proxy ── PostgreSQL ◄── load: paced inserts, bursts
//	instance 1 … n ──┤                      ◄── strangers: row locks, full connection table
//	 (processes)     └── proxy ── Mosquitto ──► an independent subscriber at QoS 2
//
// Everything is real: processes are killed with SIGKILL and frozen with SIGSTOP, servers
// are stopped and started, connections are cut in the middle of a packet. A seed decides
// what happens when, so the same seed repeats the same schedule; how the machine
// interleaves it is not repeatable, and a seed that has failed may need several tries.
//
// A run has four parts: it starts the world, destroys for a while, heals everything, and
// judges:
//
//   - each job was delivered once, none early (at-least-once: at least once)
//   - the journal and the failed jobs are empty, no row is unprocessed
//   - every shard has a living owner, and every instance its lanes
//   - all instances stop cleanly, and leave nothing behind
package chaos
