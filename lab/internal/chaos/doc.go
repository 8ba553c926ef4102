// Package chaos makes faults in a whole deployment while jobs become due. Then it checks, with
// package check, whether the promises were kept.
//
//	                                    ┌─(async)─► standby
//	                 ┌── proxy ── PostgreSQL ◄── proxy ── load: paced inserts, bursts
//	instance 1 … n ──┤                               └── other clients: row locks, triggers, …
//	 (processes)     └── proxy ── Mosquitto ──► an independent subscriber
//
// Nothing is simulated: processes are killed with SIGKILL and frozen with SIGSTOP, servers are
// stopped, killed and started, connections are cut in the middle of a packet or become black
// holes. The seed determines the schedule of the faults, so the same seed repeats the same
// schedule. How the machine interleaves the processes cannot be repeated, so a seed that has
// failed may need several runs to fail again. For a third of all seeds the instances' database
// role has settings that differ from the defaults, as an administrator may choose them.
//
// A run has four parts: it starts the deployment, makes faults for a while, ends all faults, and
// checks:
//
//   - each job was delivered once, and none early (at-least-once: at least once)
//   - within recoveryLimit the journal and the failed jobs are empty, and every row is processed
//   - every shard has an owner that is alive, and every instance has its lanes
//   - all instances stop cleanly and leave no rows behind
//
// Some faults make a promise impossible. Then the checks accept the following, and count
// what they accept (Outcome.Notes):
//
//   - rows: a job whose row could not be changed when it was due may be recorded as failed,
//     with the reason, instead of being published. All others must be published.
//   - lockjob: a job that the broker refuses must end as failed, with the broker's reason.
//   - rows, lockjob, burst, feed, and no other fault: jobs of other topics must not be later than
//     latenessLimit.
//   - failover: commits are lost. So a job that arrived in this time may arrive again, and a
//     message may arrive whose row was lost. No job may be lost, stuck or early.
//   - brokerkill: the broker starts from its last save. So messages that it had not completed at
//     a save or a kill may arrive again, and messages that were released within a second before
//     the kill may be lost (releaseState lists all cases). Every other lost message was lost by
//     reactor. To decide this, the checks record the packets between instances and broker
//     (packetTrace), because a killed broker also loses the subscriber's messages.
//
// failover and brokerkill are used only if they are asked for.
package chaos
