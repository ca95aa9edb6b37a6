// Package bandwidth bounds how much is sent, by a weekly timetable that may be
// changed at any time.
//
// Two things enforce it. The gate is for whoever has something large to send:
// Open waits, before memory is taken or a source is read, until anything may be
// sent at all, and Sending breaks an upload off when that ends. Nothing is left
// waiting inside a request then, so that no signature grows old and no time-out
// of a server, proxy or watchdog runs off. Pacing is for the bytes: Conn is put
// around connections, below TLS, and all of them together send what the limit
// allows.
package bandwidth
