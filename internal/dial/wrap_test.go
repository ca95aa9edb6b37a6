package dial

import (
	"net"
	"sync/atomic"
	"testing"
)

// counted counts what is written to the network.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

func TestAWrapperSeesWhatCrossesTheNetwork(t *testing.T) {
	d := newDestination(t, nil, nil)
	var bytes atomic.Int64
	s := Settings{CA: d.ca.pem, Wrap: func(c net.Conn) net.Conn { return counted{c, &bytes} }}
	if _, err := get(t, s, d.url); err != nil {
		t.Fatal(err)
	}
	// TLS' own hello is longer than the request, and goes through it too.
	if n := bytes.Load(); n < 300 {
		t.Errorf("it saw %d bytes of a handshake and a request", n)
	}
}
