// Package driver declares what reactor needs from a database and from a broker: the interfaces
// Source and Sink, and the values that pass between them and reactor. pgsource implements Source on
// PostgreSQL, mqttsink implements Sink on MQTT 5.
//
// The package is public, so that others can write adapters. It is not covered by the promise of
// compatibility that the other packages make: methods and fields are added, changed and
// removed as reactor needs them.
package driver
