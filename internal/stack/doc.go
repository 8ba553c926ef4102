// Package stack starts and stops the servers that reactor uses: PostgreSQL, Mosquitto and
// PgBouncer. Each server has a private port and its own directory, and Close removes
// everything.
//
// The test kit uses this package, and so do demo, benchmarks and chaos in the module lab.
// A server can be stopped in the three ways that occur in production: by a clean stop, by an
// immediate stop, and by SIGKILL. It can be started again on the same port with the data that
// is left.
//
//	           Start                    Stop, StopImmediate, Kill
//	(nothing) ───────► running ─────────────────────────────────► stopped
//	                      ▲                                          │
//	                      └──────────────── Start ───────────────────┤
//	                                                                 ▼
//	                             Close, from any state:  directory removed
//
// Process groups. A server runs in its own process group, so a Ctrl-C on a terminal reaches
// only our process, which then stops its servers in order. When our process is killed, it
// cannot do that. Then Linux signals the server (PR_SET_PDEATHSIG). Other systems have no such
// signal: there a kill -9 of our process leaves its servers running.
//
// Root. PostgreSQL refuses to run as root, and Mosquitto changes to another account. So a root
// process starts them under an unprivileged account.
package stack
