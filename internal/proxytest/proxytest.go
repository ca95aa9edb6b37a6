// Package proxytest runs real proxies for tests: Squid, and the SOCKS5 servers
// microsocks and Dante. Each runs in the foreground on a free loopback port,
// with its files in a temporary directory, and is gone when the test ends. A
// program that is not installed skips the test as package need says.
//
// The proxies go out from Outgoing, so that a destination on loopback can tell
// by the peer's address that a connection came through one.
package proxytest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Outgoing is the address from which Squid and microsocks reach destinations.
const Outgoing = "127.0.0.2"

const (
	startLimit = 30 * time.Second
	stopLimit  = 5 * time.Second
)

// start runs the command that make gives for a free port until the test ends,
// and returns the address once it accepts connections. Somebody else may take
// the port first; then another one is tried.
func start(t testing.TB, command func(port int) *exec.Cmd) (addr string) {
	t.Helper()
	var err error
	for range 3 {
		port := freePort(t)
		addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if err = startAt(t, addr, command(port)); err == nil {
			return addr
		}
	}
	t.Fatal(err)
	return ""
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startAt fails when the process ends instead of listening at addr.
func startAt(t testing.TB, addr string, cmd *exec.Cmd) error {
	t.Helper()
	output := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // helpers are ended with their parent
	cmd.WaitDelay = stopLimit
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // ended by a signal, as a rule
		close(ended)
	}()
	stop := sync.OnceFunc(func() { stopGroup(cmd, ended) })
	t.Cleanup(stop)
	if err := awaitListener(addr, ended); err != nil {
		stop()
		return fmt.Errorf("%s: %w\n%s", cmd, err, output)
	}
	return nil
}

// stopGroup asks politely first, and leaves nothing of the group behind.
func stopGroup(cmd *exec.Cmd, ended <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopLimit):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-ended
}

func awaitListener(addr string, ended <-chan struct{}) error {
	limit := time.After(startLimit)
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-limit:
			return fmt.Errorf("it does not listen after %s", startLimit)
		case <-retry.C:
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				return conn.Close()
			}
		}
	}
}
