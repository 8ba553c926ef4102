// Package driver declares what reactor needs of a database, and of a broker: Source and
// Sink, and the values that pass between them and reactor. pgsource implements Source on
// PostgreSQL, mqttsink implements Sink on MQTT 5.
//
// It is public for those who write another adapter. It is not covered by the promise of
// compatibility that the other packages make: methods and fields are added, changed and
// removed as reactor needs them.
package driver
