// Package page is the page of a deployment, which every instance serves: whether everything is on time, what comes
// next, and what is wrong.
//
//	hub.go       reads the database, once for all who look, and only while somebody looks
//	overview.go  turns what was read into what is shown; verdict.go says what is wrong, and what to do
//	stream.go    sends the parts that have changed to a browser (server-sent events)
//	access.go    who may look, and who may act; login.go, sessions.go, guesses.go, password.go
//	headers.go   what a browser may do with our answers
//
// The server makes all HTML, by html/template, which escapes every value: topics, payloads and names are texts of
// anybody. The script replaces parts of it by newer ones. Without the script everything works except that.
//
// # Who holds which lock
//
// hub.mu, sessions.mu, guesses.mu and password.mu are innermost: code that holds one takes no other lock.
package page
