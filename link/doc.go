// Package link holds what both ends of the link share beside the generated
// code in linkv1: how a connector signs its calls, how the control plane checks
// that, and how a problem travels in an error.
//
// Every call but Enrol carries an assertion in its Authorization header: a JWT
// (RFC 7519) in the manner of RFC 7523, signed with the connector's Ed25519
// key ("EdDSA", RFC 8037). Its claims are iss, the connector's ID; aud, the
// installation's ID; iat and exp, at most a minute apart; and jti, which is
// taken once. So the link passes through proxies that end TLS, and a
// connector is shut out by forgetting its key.
package link
