package try

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/internal/need"
)

// nbdServer is a real NBD server with an export for each file of a folder,
// which can be killed and started again at the same address.
type nbdServer struct {
	program, dir, address string

	mu  sync.Mutex
	cmd *exec.Cmd
}

func startNBD(t *testing.T) *nbdServer {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	n := &nbdServer{program: need.Program(t, "nbdkit"), dir: t.TempDir(), address: address}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	return n
}

// start starts the server and returns when it answers.
func (n *nbdServer) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return nil
	}
	host, port, err := net.SplitHostPort(n.address)
	if err != nil {
		return err
	}
	n.cmd = exec.Command(n.program, "-f", "-r", "-i", host, "-p", port, "file", "dir="+n.dir)
	if err := n.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the NBD server does not answer: %w", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// kill ends the server as a crash would.
func (n *nbdServer) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
	n.cmd = nil
}

// add makes an export.
func (n *nbdServer) add(name string, from io.ReaderAt, size int64) error {
	f, err := os.Create(filepath.Join(n.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	for off := int64(0); off < size; off += int64(len(p)) {
		p = p[:min(int64(len(p)), size-off)]
		if err := readAt(from, p, off); err != nil {
			return err
		}
		if bytes.Count(p, []byte{0}) == len(p) {
			continue
		}
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// connections counts those that are open to the server, where the system tells.
func (n *nbdServer) connections() (open int, err error) {
	p, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, nil
	}
	_, port, err := net.SplitHostPort(n.address)
	if err != nil {
		return 0, err
	}
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		return 0, err
	}
	at := fmt.Sprintf(":%04X", number)
	for line := range strings.Lines(string(p)) {
		// Number, local address, remote address, state: 01 is established.
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[2], at) && f[3] == "01" {
			open++
		}
	}
	return open, nil
}
