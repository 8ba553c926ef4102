// Package stack starts and stops the real servers that reactor works between:
// a PostgreSQL and a Mosquitto of its own, on private ports, in a directory of
// their own, gone without a trace after Close.
//
// It serves the test kit, and in the module lab demo, benchmarks and chaos. Since those kill what
// they start, every server can be stopped in the ways that servers stop in the
// field: properly, at once, and by SIGKILL; and be started again on the same
// port with the data it left.
//
//	           Start                    Stop, StopImmediate, Kill
//	(nothing) ───────► running ─────────────────────────────────► stopped
//	                      ▲                                          │
//	                      └──────────────── Start ───────────────────┤
//	                                                                 ▼
//	                             Close, from any state:  directory removed
//
// Who dies with whom. A server runs in a process group of its own, so that
// Ctrl-C on a terminal reaches only our process, which then stops its servers
// in order. When our process dies without a chance to do that, Linux signals
// the server (PR_SET_PDEATHSIG); other systems have no such thing, and there a
// kill -9 of our process leaves its servers running.
//
// Root. PostgreSQL refuses to run as root and Mosquitto drops its rights, so a
// root process starts them under an unprivileged account from the beginning.
package stack
