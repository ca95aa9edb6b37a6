// Package nbd is a client of the NBD protocol that reads: as many reads at a
// time as callers like over one connection, straight into the callers' memory.
// Each function's source is the protocol's own document,
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// The pieces, in the order in which a connection meets them:
//
//   - wire.go has the protocol's numbers and its request.
//   - handshake.go haggles: the fixed newstyle handshake, TLS before anything
//     that matters is said, structured replies and block status where the
//     server has them, then the export with its block sizes. A server without
//     NBD_OPT_GO is asked by NBD_OPT_EXPORT_NAME.
//   - client.go holds a connection and its two goroutines: one sends what is
//     queued, the other (receive.go) takes replies in whatever order they come
//     and puts the bytes where their requests want them (fill.go).
//   - read.go and status.go are what callers ask for.
//
// # Trust
//
// With TLS configured, a server that offers none is refused: nothing is ever
// said in plain text but the wish for TLS. A server is known by its
// certificate: by an authority, or by whatever tls.Config.VerifyConnection
// pins. Pre-shared keys (nbdkit's --tls-psk) are not supported: crypto/tls has
// them for the resumption of its own sessions only, and no maintained Go
// library has them for others.
//
// What a server sends is checked before it is used: each reply must belong to a
// request under way, lie inside what that asked for, cover all of it, and
// nothing twice. A server that breaks these rules is not understood any more,
// and its connection ends (ErrProtocol). Lengths that only a server's word
// stands for never decide how much memory is taken.
package nbd
