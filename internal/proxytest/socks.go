package proxytest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"skylift/internal/need"
)

// SOCKS runs a SOCKS5 proxy (microsocks) and returns its URL. A user other
// than "" is demanded with the password.
func SOCKS(t testing.TB, user, password string) string {
	t.Helper()
	microsocks := need.Program(t, "microsocks")
	return "socks5://" + start(t, func(port int) *exec.Cmd {
		args := []string{"-i", "127.0.0.1", "-p", strconv.Itoa(port), "-b", Outgoing}
		if user != "" {
			args = append(args, "-u", user, "-P", password)
		}
		return exec.Command(microsocks, args...)
	})
}

// Dante runs a SOCKS5 proxy (danted) without authentication that serves only
// destinations on loopback, and returns its URL.
func Dante(t testing.TB) string {
	t.Helper()
	danted := need.Program(t, "danted", "sockd")
	dir := openDir(t)
	return "socks5://" + start(t, func(port int) *exec.Cmd {
		path := filepath.Join(dir, "danted.conf")
		write(t, path, fmt.Sprintf(`logoutput: stderr
internal: 127.0.0.1 port = %d
external: 127.0.0.1
socksmethod: none
clientmethod: none
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 127.0.0.0/8 to: 127.0.0.0/8 }
`, port))
		return exec.Command(danted, "-f", path, "-p", filepath.Join(dir, "danted.pid"))
	})
}
