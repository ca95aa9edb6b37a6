package proxytest

import (
	"crypto/md5"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"skylift/internal/need"
)

// Name is a host that only Squid's own table of hosts knows: 127.0.0.1.
const Name = "destination.test"

// helpers is where Debian has Squid's authentication helpers.
const helpers = "/usr/lib/squid"

// Option is something that Squid is told besides the basics. It may write
// files into dir and returns lines of configuration.
type Option func(t testing.TB, dir string) string

// Squid runs an HTTP proxy and returns its URL. Without an Option it serves everybody.
func Squid(t testing.TB, options ...Option) string {
	t.Helper()
	squid := need.Program(t, "squid")
	dir := openDir(t)
	conf := squidConf(t, dir, options)
	return "http://" + start(t, func(port int) *exec.Cmd {
		path := filepath.Join(dir, "squid.conf")
		write(t, path, fmt.Sprintf("http_port 127.0.0.1:%d\n%s", port, conf))
		// The service's name keeps the shared memory of several Squids apart.
		return exec.Command(squid, "-N", "-d", "1", "-n", fmt.Sprintf("skylift%d", port), "-f", path)
	})
}

// squidConf gives options the first word, since the first matching http_access rule counts.
func squidConf(t testing.TB, dir string, options []Option) string {
	t.Helper()
	hosts := filepath.Join(dir, "hosts")
	write(t, hosts, "127.0.0.1 "+Name+"\n")
	lines := []string{
		"pid_filename none",
		"access_log none",
		"cache_log " + filepath.Join(dir, "cache.log"),
		"cache deny all",
		"coredump_dir " + dir,
		"hosts_file " + hosts,
		"max_filedescriptors 1024", // tables for the system's limit take long to fill
		"pinger_enable off",
		"shutdown_lifetime 0 seconds",
		"tcp_outgoing_address " + Outgoing,
		"visible_hostname squid.test",
	}
	for _, option := range options {
		lines = append(lines, option(t, dir))
	}
	return strings.Join(append(lines, "http_access allow all", ""), "\n")
}

// Basic demands one of these users with the password beside it. Squid's format
// cannot hold a user with a colon, nor line breaks.
func Basic(users map[string]string) Option {
	return func(t testing.TB, dir string) string {
		lines := new(strings.Builder)
		for user, password := range users {
			fmt.Fprintf(lines, "%s:%x\n", user, md5.Sum([]byte(password)))
		}
		file := filepath.Join(dir, "passwords")
		write(t, file, lines.String())
		return "auth_param basic casesensitive on\n" +
			demand("basic", need.Program(t, helpers+"/basic_ncsa_auth")+" "+file)
	}
}

// Scheme demands NTLM, Negotiate or Digest and nothing else. No login succeeds.
func Scheme(name string) Option {
	return func(t testing.TB, dir string) string {
		if name != "Digest" {
			return demand(strings.ToLower(name), need.Program(t, helpers+"/ntlm_fake_auth"))
		}
		file := filepath.Join(dir, "digests")
		write(t, file, "nobody:x\n")
		return "auth_param digest realm squid\n" +
			demand("digest", need.Program(t, helpers+"/digest_file_auth")+" "+file)
	}
}

// demand lets in whom the helper program of an authentication scheme accepts.
func demand(scheme, helper string) string {
	return strings.Join([]string{
		"auth_param " + scheme + " program " + helper,
		"auth_param " + scheme + " children 1 startup=1",
		"acl known proxy_auth REQUIRED",
		"http_access deny !known",
	}, "\n")
}

// DenyAll refuses every destination.
func DenyAll() Option {
	return func(testing.TB, string) string { return "http_access deny all" }
}

// TLS has Squid listen with a certificate: the returned URL's port speaks
// plain HTTP still, the one at addr TLS.
func TLS(addr string, certAndKey []byte) Option {
	return func(t testing.TB, dir string) string {
		file := filepath.Join(dir, "server.pem")
		write(t, file, string(certAndKey))
		return "https_port " + addr + " tls-cert=" + file
	}
}

// FreeAddr returns a loopback address that is free at the moment.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(freePort(t)))
}

// openDir makes a temporary directory that the user can use to whom a proxy
// started by root changes.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{dir: 0o777, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
