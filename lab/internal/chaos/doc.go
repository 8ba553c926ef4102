// Package chaos destroys a whole deployment while jobs fall due, and then asks the one
// judge (package check) whether the promise was kept.
//
//	                                    ┌─(async)─► standby
//	                 ┌── proxy ── PostgreSQL ◄── proxy ── load: paced inserts, bursts
//	instance 1 … n ──┤                               └── strangers: row locks, triggers, …
//	 (processes)     └── proxy ── Mosquitto ──► an independent subscriber
//
// Everything is real: processes are killed with SIGKILL and frozen with SIGSTOP, servers
// are stopped, killed and started, connections are cut in the middle of a packet or go dead
// without a word. A seed decides what happens when, so the same seed repeats the same
// schedule; how the machine interleaves it is not repeatable, and a seed that has failed may
// need several tries. It also decides, for a third of all seeds, which settings the
// instances' database role has: such as administrators make for reasons of their own.
//
// A run has four parts: it starts the world, destroys for a while, heals everything, and
// judges:
//
//   - each job was delivered once, none early (at-least-once: at least once)
//   - the journal and the failed jobs are empty, no row is unprocessed, within recoveryLimit
//   - every shard has a living owner, and every instance its lanes
//   - all instances stop cleanly, and leave nothing behind
//
// Where something cannot be promised the judge is milder, narrowly, and counts what it
// accepts (Outcome.Notes):
//
//   - rows: a job whose row could not be changed when it was due may be recorded as failed,
//     with the reason, instead of being published. All others must be published.
//   - lockjob: a job that the broker refuses must end as failed, with the broker's reason.
//   - rows, lockjob, burst, and no other fault: a job of another topic may be no later than
//     latenessLimit.
//   - failover: commits are lost, so a job that arrived while they were may arrive again,
//     and so may one whose row is gone. None may be lost, stuck or early.
//   - brokerkill: the broker goes back to its last save, so what it had in hand at a save or
//     a kill may arrive again, and what it was told to pass on within a second of the kill
//     may be lost with it. All else that is lost, was lost by us. The judge reads the packets
//     between instances and broker for that (ledger), as a killed broker loses the judge's
//     messages too.
//
// failover and brokerkill are used only where they are asked for.
package chaos
