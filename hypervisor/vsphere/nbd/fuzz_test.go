package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// tape is a connection to a server that says the same whatever it is told,
// once it has been told enough.
type tape struct {
	net.Conn // nil: what is not overridden is not called
	said     *bytes.Reader
	ready    chan struct{}

	mu    sync.Mutex
	after int // bytes that have to be written first
}

func newTape(said []byte, after int) *tape {
	c := &tape{said: bytes.NewReader(said), ready: make(chan struct{}), after: after}
	if after == 0 {
		close(c.ready)
	}
	return c
}

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after > 0 {
		if c.after -= len(p); c.after <= 0 {
			close(c.ready)
		}
	}
	return len(p), nil
}

func (c *tape) Read(p []byte) (int, error)       { <-c.ready; return c.said.Read(p) }
func (c *tape) Close() error                     { return nil }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// FuzzReplies has three reads (cookies 1 to 3) and a question for status (4)
// answered by anything.
func FuzzReplies(f *testing.F) {
	eight := []byte("abcdefgh")
	f.Add(true, slices.Concat(
		chunkReply(2, chunkDone, chunkData, data(8, eight...)...), chunkReply(1, chunkDone, chunkHole, hole(0, 8)...),
		chunkReply(4, chunkDone, chunkBlockStatus, statuses(7, 512, 0, 512, 3)...), chunkReply(3, chunkDone, chunkErrorBit+1, failure(5, "bad sector")...)))
	f.Add(true, slices.Concat(chunkReply(1, 0, chunkData, data(4, eight[:2]...)...), chunkReply(1, 0, chunkData, data(0, eight[:4]...)...),
		chunkReply(1, chunkDone, chunkData, data(6, eight[:2]...)...), simpleReply(4, 95)))
	f.Add(false, slices.Concat(simpleReply(3, 0, eight...), simpleReply(1, 5), simpleReply(2, 108)))
	f.Fuzz(func(t *testing.T, structured bool, said []byte) {
		found := agreed{size: 1 << 20, minBlock: 1, maxPayload: usualPayload}
		questions := 3
		if structured {
			found.structured, found.allocation = true, &contextID
			questions = 4
		}
		conn := newTape(said, questions*requestSize)
		c := start(found, conn, conn, time.Minute)
		var all sync.WaitGroup
		guard := []byte("????????")
		for i := range int64(3) {
			p := bytes.Repeat([]byte("?"), 24)
			r := c.request(cmdRead, i*8, 8)
			r.p = p[8:16]
			cookie, err := c.enqueue(r)
			if err != nil || cookie != uint64(i)+1 {
				t.Fatalf("request %d: %v", cookie, err)
			}
			all.Go(func() {
				<-r.done
				if !bytes.Equal(p[:8], guard) || !bytes.Equal(p[16:], guard) {
					t.Error("memory around was written to")
				}
			})
		}
		if structured {
			all.Go(func() {
				at := int64(0)
				_ = c.Allocated(context.Background(), 0, 1<<20, func(off, length int64, _ bool) error {
					if off != at || length <= 0 || off+length > 1<<20 {
						t.Errorf("told of %d bytes at %d behind %d", length, off, at)
					}
					at = off + length
					return nil
				})
			})
		}
		all.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzHandshake(f *testing.F) {
	hello := []byte("NBDMAGICIHAVEOPT\x00\x03")
	reply := func(option, kind uint32, p ...byte) []byte {
		b := binary.BigEndian.AppendUint64(nil, magicReply)
		b = binary.BigEndian.AppendUint32(b, option)
		b = binary.BigEndian.AppendUint32(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		return append(b, p...)
	}
	export := reply(optGo, replyInfo, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 3)
	sizes := reply(optGo, replyInfo, 0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0)
	f.Add(slices.Concat(hello, reply(optStructuredReply, replyAck), reply(optSetMetaContext, replyMetaContext, []byte("\x00\x00\x00\x07base:allocation")...),
		reply(optSetMetaContext, replyAck), export, sizes, reply(optGo, replyAck)))
	f.Add(slices.Concat(hello, reply(optStructuredReply, replyError+1), reply(optGo, replyError+1), make([]byte, 10)))
	f.Add(slices.Concat(hello, reply(optStructuredReply, replyError+1), reply(optGo, replyError+6, []byte("no such export")...)))
	f.Add(append([]byte("NBDMAGICIHAVEOPT\x00\x00"), make([]byte, 134)...))
	f.Add([]byte("NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"))
	f.Fuzz(func(t *testing.T, said []byte) {
		found, conn, err := handshake(t.Context(), newTape(said, 0), Config{Export: "web", Idle: time.Minute})
		if err != nil {
			return
		}
		if conn == nil || found.size < 0 || found.minBlock < 1 || found.minBlock > 1<<16 || found.maxPayload < found.minBlock ||
			found.maxPayload > usualPayload || found.maxPayload%found.minBlock != 0 {
			t.Errorf("agreed on %+v", found)
		}
	})
}

// FuzzCoverage holds it against a map of all bytes.
func FuzzCoverage(f *testing.F) {
	f.Add([]byte{0, 4, 8, 4, 4, 4})
	f.Add([]byte{10, 1, 8, 1, 9, 1, 8, 1})
	f.Fuzz(func(t *testing.T, parts []byte) {
		var v coverage
		var have [512]bool
		for ; len(parts) >= 2; parts = parts[2:] {
			from, to := int(parts[0]), int(parts[0])+int(parts[1])
			if from == to {
				continue
			}
			overlaps := slices.Contains(have[from:to], true)
			if err := v.add(uint32(from), uint32(to)); (err != nil) != overlaps {
				t.Fatalf("%d to %d in %v: %v", from, to, v, err)
			}
			for i := from; i < to; i++ {
				have[i] = true
			}
			if overlaps {
				return
			}
		}
		for n := 1; n < 512; n++ {
			whole := !slices.Contains(have[:n], false) && !slices.Contains(have[n:], true)
			if v.whole(uint32(n)) != whole {
				t.Fatalf("%d bytes of %v: %v", n, v, whole)
			}
		}
	})
}

// endless answers each read with the same bytes.
type endless struct {
	tape
	cookies chan [8]byte
	reply   []byte
	left    []byte // of the reply under way
	closing sync.Once
}

func (c *endless) Close() error {
	c.closing.Do(func() { close(c.cookies) })
	return nil
}

func (c *endless) Write(p []byte) (int, error) {
	for request := range slices.Chunk(p, requestSize) {
		c.cookies <- [8]byte(request[8:16])
	}
	return len(p), nil
}

func (c *endless) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		cookie, ok := <-c.cookies
		if !ok {
			return 0, io.EOF
		}
		copy(c.reply[8:], cookie[:])
		c.left = c.reply
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func TestReadsTakeNoMemoryOfTheirOwn(t *testing.T) {
	const size = 512 << 10
	conn := &endless{cookies: make(chan [8]byte, 16), reply: chunkReply(0, chunkDone, chunkData, data(0, make([]byte, size)...)...)}
	c := start(agreed{size: size, structured: true, minBlock: 1, maxPayload: usualPayload}, conn, conn, time.Minute)
	p := make([]byte, size)
	if n := testing.AllocsPerRun(100, func() {
		if err := c.ReadAt(context.Background(), p, 0); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each read", n)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
