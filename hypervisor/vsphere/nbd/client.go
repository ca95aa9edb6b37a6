package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Config says which export of which server is wanted.
type Config struct {
	// Address is host:port. The protocol's port is 10809.
	Address string
	// Export is the export's name; empty for the server's default. At most
	// 4096 bytes.
	Export string
	// TLS, when set, is insisted on, and decides whom to trust. An empty
	// ServerName is taken from Address. Without it, everything is plain text.
	TLS *tls.Config
	// Dial opens the connection; nil dials directly, for at most 30 s.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long the server may leave a request, or the next bytes of
	// its reply, waited for: 60 s if zero.
	Idle time.Duration
}

// Client is a connection to one export. Its methods may be called at once from
// many goroutines. After its first failure all calls fail with that.
type Client struct {
	agreed
	conn net.Conn // the one that bytes go through
	raw  net.Conn // below TLS
	in   *bufio.Reader
	idle time.Duration

	wake  chan struct{} // something is queued
	dead  chan struct{} // closed when err is set
	tasks sync.WaitGroup

	mu      sync.Mutex
	err     error // why the connection is over
	cookie  uint64
	pending map[uint64]*request
	queue   []*request // those not sent yet, in order
	free    []*request
	heard   time.Time // when bytes came last, or began to be awaited
	filling uint64    // the cookie of the request whose memory is being written
	settled sync.Cond // filling has changed

	small [512]byte // the receiver's
}

// Connect opens a connection and agrees with the server on the export. Errors:
// ErrNoTLS, *Refusal (there is no such export), ErrProtocol, ErrIdle, those of
// Config.Dial and of crypto/tls.
func Connect(ctx context.Context, c Config) (*Client, error) {
	if len(c.Export) > maxString {
		return nil, fmt.Errorf("the export's name has %d bytes: the NBD protocol allows %d", len(c.Export), maxString)
	}
	if c.Idle <= 0 {
		c.Idle = time.Minute
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	raw, err := c.Dial(ctx, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to the NBD server: %w", err)
	}
	found, conn, err := handshake(ctx, raw, c)
	if err != nil {
		return nil, errors.Join(err, closed(raw.Close()))
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, closed(raw.Close()))
	}
	return start(found, conn, raw, c.Idle), nil
}

// start begins the transmission phase.
func start(found agreed, conn, raw net.Conn, idle time.Duration) *Client {
	c := &Client{
		agreed: found, conn: conn, raw: raw, idle: idle,
		// Small: reads larger than it go past it, and it saves one system call
		// for each header in front of them.
		in:      bufio.NewReaderSize(conn, 4096),
		wake:    make(chan struct{}, 1),
		dead:    make(chan struct{}),
		pending: map[uint64]*request{},
	}
	c.settled.L = &c.mu
	c.tasks.Go(c.send)
	c.tasks.Go(c.receive)
	return c
}

// Size returns the export's size in bytes.
func (c *Client) Size() int64 { return c.size }

// ReadOnly reports whether the server refuses writes.
func (c *Client) ReadOnly() bool { return c.flags&flagReadOnly != 0 }

// MultiConn reports whether the server is made for several connections to the
// export at once.
func (c *Client) MultiConn() bool { return c.flags&flagMultiConn != 0 }

// MinBlock returns what reads have to begin and end at multiples of, in bytes:
// 1 to 65,536.
func (c *Client) MinBlock() int64 { return c.minBlock }

// MaxPayload returns how many bytes the server gives at once. Larger reads are
// made of several.
func (c *Client) MaxPayload() int64 { return c.maxPayload }

// Err returns why the connection is over, nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close takes leave of the server and returns when nothing runs any more.
// Calls under way fail with ErrClosed. A connection that is over already, for
// whatever reason, is closed without an error: its calls have told that.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.tasks.Wait()
	return nil
}

// fail ends the connection, unless it has ended. Requests are told by the
// receiver, which alone knows when their memory is left alone.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.dead)
	// Nothing more is to be sent, not even by a sender that is stuck.
	_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
}

// send sends what is queued, as much at once as there is, until the connection
// is over, and then takes leave.
func (c *Client) send() {
	var out []byte
	for {
		select {
		case <-c.wake:
		case <-c.dead:
			c.leave()
			return
		}
		if out = c.queued(out[:0]); len(out) == 0 {
			continue
		}
		if _, err := c.conn.Write(out); err != nil {
			if isTimeout(err) {
				err = fmt.Errorf("%w: it takes no requests (%s)", ErrIdle, c.idle)
			}
			c.fail(fmt.Errorf("send to the NBD server: %w", err))
		}
	}
}

// queued takes the requests that wait to be sent.
func (c *Client) queued(out []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil
	}
	for _, r := range c.queue {
		r.sent = true
		out = appendRequest(out, r.command, r.cookie, r.off, r.length)
	}
	clear(c.queue)
	c.queue = c.queue[:0]
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.idle))
	return out
}

// leave ends the connection: politely, if the server still understands.
func (c *Client) leave() {
	err := c.Err()
	if shutdown := (*Error)(nil); errors.Is(err, ErrClosed) || errors.As(err, &shutdown) {
		_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.conn.Write(appendRequest(nil, cmdDisconnect, 0, 0, 0)); err == nil {
			_ = c.conn.Close()
		}
	}
	_ = c.raw.Close()
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// closed leaves out that a connection was closed before.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
