// Package dial is how every part of Skylift reaches the outside: directly or
// through an HTTP CONNECT or SOCKS5 proxy with a user and a password, over TLS
// 1.2 or later that trusts the system's roots, the operator's CA or one pinned
// certificate, and with a watchdog that gives up a request on which no byte
// flows. What goes wrong comes back as a typed problem which names the party
// that failed: the proxy, the destination, or the trust between them.
//
// A [Transport] is made once per set of [Settings] and shared. Its pieces:
//
//   - [Transport.DialContext] opens raw TCP through the proxy, for protocols
//     other than HTTP. The HTTP side is built on it, so that the proxy is
//     spoken to in one place; [http.Transport.Proxy] stays unused.
//   - [Transport.RoundTrip] adds the watchdog and the typing of errors.
//   - [Transport.Client] is an [http.Client] over it.
//
// # How its users plug it in
//
// The AWS SDK takes any HTTPClient: give Transport.Client() to the service
// client (s3.Options.HTTPClient). It is not for config.LoadDefaultConfig,
// which fails with a foreign client where AWS_CA_BUNDLE is set.
//
// Connect RPC takes Transport.Client() as well; set Settings.HTTP2 for the link.
// A server stream lives as long as it likes: only the wait for the next bytes
// is limited, so its heartbeat has to be shorter than Settings.IdleTimeout.
//
// govmomi's soap.Client makes its own [http.Transport] with a dialer that
// ignores the context, and shares it with the clients it derives. [Over] puts
// the settings into that one, and the round tripper above it:
//
//	sc := soap.NewClient(u, false)
//	t, err := dial.Over(sc.DefaultTransport(), settings)
//	...
//	sc.Client.Transport = t
//
// Clients derived with NewServiceClient keep the bare transport: they are
// dialed, proxied and verified alike, but have no watchdog and no typed TLS
// errors until the same assignment is made on them. soap.Client's thumbprints
// and root CAs must not be used besides; nor its SetCertificate and NewTunnel
// methods, which insist on the bare transport.
//
// An http.Client puts the request's URL into its errors. A caller whose URLs
// carry a secret in the query (an Azure SAS) takes the error out of the
// [net/url.Error] before showing it.
package dial
