// Package s3 runs an S3 server of our own, for trying the product out and for
// tests: versitygw over TLS on a free loopback port, its objects plain files
// in a directory. It checks signatures and checksums and keeps conditional
// writes, so that what works against it was not merely accepted.
//
// The server changes its process's directory and there can be one per
// process. Start therefore runs it as a child: the same binary, executed
// again. A test package makes that possible with
//
//	func TestMain(m *testing.M) { s3.Main(m) }
//
// and a program with a hidden subcommand that calls Serve, whose name it
// passes as Config.Args. The child gets its settings, the secret among them,
// on standard input, and ends when that closes: it cannot outlive its parent.
package s3
