package dial

import "skylift/internal/problem"

// Settings that cannot work.
var (
	ProxyInvalid = &problem.Kind{
		Code:  "proxy-invalid",
		Title: "the proxy's settings are not valid",
		Hint:  "Write the proxy as http://host:port, https://host:port, socks5://host:port or socks5h://host:port, with user and password in their own fields",
	}
	CAInvalid = &problem.Kind{
		Code:  "tls-ca-invalid",
		Title: "the CA certificates are not valid",
		Hint:  "Upload a text file in PEM format that holds CA certificates and nothing else (-----BEGIN CERTIFICATE-----)",
	}
	FingerprintInvalid = &problem.Kind{
		Code:  "tls-fingerprint-invalid",
		Title: "the certificate fingerprint is not valid",
		Hint:  "Enter the SHA-256 fingerprint of the server's certificate: 64 hexadecimal digits, with or without colons",
	}
	LimitsInvalid = &problem.Kind{
		Code:  "connection-limits-invalid",
		Title: "the limits of connections are not valid",
		Hint:  "Set each time-out and the number of connections to zero, which stands for the default, or more",
	}
)

// What stands between here and the destination.
var (
	ProxyUnreachable = &problem.Kind{
		Code:  "proxy-unreachable",
		Title: "the proxy cannot be reached",
		Hint:  "Check the proxy's host and port, name resolution and the firewall between this machine and the proxy",
		Retry: true,
	}
	ProxyProtocol = &problem.Kind{
		Code:  "proxy-protocol",
		Title: "what answers does not speak the proxy's protocol",
		Hint:  "Check the proxy's port and whether it is an HTTP or a SOCKS5 proxy",
	}
	ProxyAuthUnsupported = &problem.Kind{
		Code:  "proxy-auth-unsupported",
		Title: "the proxy does not accept a plain user and password",
		Hint:  "Ask for Basic authentication to be enabled for this machine on an HTTP proxy, or user and password on a SOCKS5 proxy; NTLM, Digest, Negotiate and GSSAPI are not supported. Or ask for this machine to be exempt from authentication",
	}
	ProxyAuthRequired = &problem.Kind{
		Code:  "proxy-auth-required",
		Title: "the proxy demands a user and a password, and none are set",
		Hint:  "Enter the proxy's user and password",
	}
	ProxyAuthRejected = &problem.Kind{
		Code:  "proxy-auth-rejected",
		Title: "the proxy rejected the user or the password",
		Hint:  "Correct the proxy's user and password, and check that the account is neither locked nor expired",
	}
	ProxyRefused = &problem.Kind{
		Code:  "proxy-destination-refused",
		Title: "the proxy refuses this destination",
		Hint:  "Ask for the destination's host and port to be allowed in the proxy's rules, or add it to the proxy exceptions if it can be reached directly",
	}
	ProxyDestination = &problem.Kind{
		Code:  "proxy-destination-unreachable",
		Title: "the proxy cannot reach the destination",
		Hint:  "Check the destination's name and port, and the proxy's own name resolution and route; add the destination to the proxy exceptions if it must be reached directly",
		Retry: true,
	}
	Unresolved = &problem.Kind{
		Code:  "destination-unresolved",
		Title: "the destination's name cannot be resolved",
		Hint:  "Check the name and this machine's DNS servers; set a proxy if the network resolves outside names only there",
		Retry: true,
	}
	Unreachable = &problem.Kind{
		Code:  "destination-unreachable",
		Title: "the destination cannot be reached",
		Hint:  "Check the destination's host and port, the route and the firewalls on the way; set a proxy if the network demands one",
		Retry: true,
	}
	Stalled = &problem.Kind{
		Code:  "connection-stalled",
		Title: "nothing was received or sent for too long",
		Hint:  "Check the network between this machine and the destination, and whether a firewall or proxy on the way drops long-lived connections",
		Retry: true,
	}
	Lost = &problem.Kind{
		Code:  "connection-lost",
		Title: "the connection was cut",
		Hint:  "Check the network between this machine and the destination, and the logs of the destination and of any proxy or firewall on the way",
		Retry: true,
	}
)

// What keeps TLS from being trusted.
var (
	Untrusted = &problem.Kind{
		Code:  "tls-certificate-untrusted",
		Title: "the certificate is signed by nobody whom this machine trusts",
		Hint:  "If the issuer is your organization's own or that of a TLS-inspecting proxy, upload its CA certificate, or exempt the destination from inspection; if it is unknown to you, do not go on: someone may be listening",
	}
	WrongName = &problem.Kind{
		Code:  "tls-certificate-name",
		Title: "the certificate is for another name",
		Hint:  "Use a name that is in the certificate, have the certificate renewed with the right name, or pin its fingerprint",
	}
	Expired = &problem.Kind{
		Code:  "tls-certificate-expired",
		Title: "the certificate is expired or not yet valid",
		Hint:  "Compare this machine's clock with a right one first; if it is right, have the certificate renewed",
	}
	OldTLS = &problem.Kind{
		Code:  "tls-version-old",
		Title: "the server speaks no TLS version that is still safe",
		Hint:  "Enable TLS 1.2 or later on the server, or on the inspecting device in front of it",
	}
	FingerprintMismatch = &problem.Kind{
		Code:  "tls-fingerprint-mismatch",
		Title: "the certificate is not the pinned one",
		Hint:  "If the server's certificate was renewed, check the new fingerprint at the server itself and pin it; if it was not, do not go on: someone may be listening",
	}
	HandshakeFailed = &problem.Kind{
		Code:  "tls-handshake-failed",
		Title: "TLS could not be established",
		Hint:  "Check that the port is the one for TLS, and which TLS versions and ciphers the server allows",
	}
)
