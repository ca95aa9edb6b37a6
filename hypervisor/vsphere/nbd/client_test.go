package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a client of a server that plays a script, over a connection in
// memory so that time can be simulated around it.
func scripted(t *testing.T, found agreed, script func(s *server)) *Client {
	near, far := net.Pipe()
	found.size, found.minBlock, found.maxPayload = 1<<20, 1, usualPayload
	played := make(chan struct{})
	go func() {
		defer close(played)
		script(&server{t, far})
		_, _ = io.Copy(io.Discard, far) // the farewell
	}()
	c := start(found, near, near, 10*time.Second)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-played
	})
	return c
}

// server is the far end.
type server struct {
	t    *testing.T
	conn net.Conn
}

// asked reads a request.
func (s *server) asked() (command uint16, cookie uint64) {
	var p [requestSize]byte
	if _, err := io.ReadFull(s.conn, p[:]); err != nil {
		s.t.Errorf("no request came: %v", err)
	}
	return binary.BigEndian.Uint16(p[6:]), binary.BigEndian.Uint64(p[8:])
}

// say writes; the client may hang up on it.
func (s *server) say(p ...byte) { _, _ = s.conn.Write(p) }

func simpleReply(cookie uint64, code uint32, data ...byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, magicSimple)
	p = binary.BigEndian.AppendUint32(p, code)
	return append(binary.BigEndian.AppendUint64(p, cookie), data...)
}

func chunkReply(cookie uint64, flags, kind uint16, payload ...byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, magicStructured)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = binary.BigEndian.AppendUint16(p, kind)
	p = binary.BigEndian.AppendUint64(p, cookie)
	p = binary.BigEndian.AppendUint32(p, uint32(len(payload)))
	return append(p, payload...)
}

func data(off uint64, p ...byte) []byte { return append(binary.BigEndian.AppendUint64(nil, off), p...) }

func hole(off uint64, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, off), n)
}

func failure(code uint32, message string, rest ...byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, code)
	p = binary.BigEndian.AppendUint16(p, uint16(len(message)))
	return append(append(p, message...), rest...)
}

func statuses(id uint32, pairs ...uint32) []byte {
	p := binary.BigEndian.AppendUint32(nil, id)
	for _, n := range pairs {
		p = binary.BigEndian.AppendUint32(p, n)
	}
	return p
}

var contextID uint32 = 7

func structuredReplies() agreed { return agreed{structured: true, allocation: &contextID} }

// TestReadsOfEightBytes reads the 8 bytes at 64 and then 8 others.
func TestReadsOfEightBytes(t *testing.T) {
	a := []byte("abcdefgh")
	for _, c := range []struct {
		name  string
		found agreed
		reply []byte
		code  Code // of the error that is wanted
		dead  bool // the server is not to be understood any more
	}{
		{name: "a simple reply", reply: simpleReply(1, 0, a...)},
		{name: "a simple error", reply: simpleReply(1, 5), code: IO},
		{name: "a reply to nobody", reply: simpleReply(2, 0, a...), dead: true},
		{name: "another protocol", reply: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), dead: true},
		{name: "a chunk that was not agreed on", reply: chunkReply(1, chunkDone, chunkData, data(64, a...)...), dead: true},

		{name: "one chunk", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(64, a...)...)},
		{name: "one chunk and an end", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(64, a...)...), chunkReply(1, chunkDone, chunkNone))},
		{name: "chunks in disorder", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(70, 'g', 'h')...), chunkReply(1, 0, chunkData, data(64, 'a', 'b', 'c')...),
			chunkReply(1, chunkDone, chunkData, data(67, 'd', 'e', 'f')...))},
		{name: "flags that are not known", found: structuredReplies(), reply: chunkReply(1, 0xff|chunkDone, chunkData, data(64, a...)...)},
		{name: "an error", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkErrorBit+1, failure(5, "bad sector")...), code: IO},
		{name: "an error behind bytes", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(64, a...)...), chunkReply(1, chunkDone, chunkErrorOffset, failure(5, "", data(66)...)...)), code: IO},
		{name: "an error of a kind that is not known", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkErrorBit+99, failure(22, "no", 1, 2, 3)...), code: Invalid},
		{name: "a simple reply where chunks were agreed on", found: structuredReplies(), reply: simpleReply(1, 0, a...), dead: true},
		{name: "a simple error where chunks were agreed on", found: structuredReplies(), reply: simpleReply(1, 5), dead: true},
		{name: "bytes before those asked for", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(63, a...)...), dead: true},
		{name: "bytes behind those asked for", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(65, a...)...), dead: true},
		{name: "bytes far away", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(1<<63+64, a...)...), dead: true},
		{name: "a chunk without bytes", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(64)...), dead: true},
		{name: "a hole of no bytes", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkHole, hole(64, 0)...), dead: true},
		{name: "a hole that is too long", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkHole, hole(64, 9)...), dead: true},
		{name: "a hole around the whole world", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkHole, hole(65, 1<<32-1)...), dead: true},
		{name: "bytes that are missing", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkData, data(64, a[:7]...)...), dead: true},
		{name: "bytes that are missing in between", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(64, a[:3]...)...), chunkReply(1, chunkDone, chunkData, data(68, a[4:]...)...)), dead: true},
		{name: "nothing at all", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkNone), dead: true},
		{name: "bytes that come twice", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(64, a...)...), chunkReply(1, chunkDone, chunkData, data(71, 'h')...)), dead: true},
		{name: "a hole over bytes", found: structuredReplies(), reply: slices.Concat(
			chunkReply(1, 0, chunkData, data(66, a[2:4]...)...), chunkReply(1, chunkDone, chunkHole, hole(64, 8)...)), dead: true},
		{name: "a status instead", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 8, 0)...), dead: true},
		{name: "a kind that is not known", found: structuredReplies(), reply: chunkReply(1, chunkDone, 77), dead: true},
		{name: "an empty chunk that is not the last", found: structuredReplies(), reply: chunkReply(1, 0, chunkNone), dead: true},
		{name: "an empty chunk with bytes", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkNone, 1), dead: true},
		{name: "an error without a number", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkErrorBit+1, failure(0, "fine")...), dead: true},
		{name: "a message that is longer than its chunk", found: structuredReplies(), reply: chunkReply(1, chunkDone, chunkErrorBit+1, 0, 0, 0, 5, 0, 9, 'x'), dead: true},
		{name: "an error that is too long", found: structuredReplies(), reply: append(chunkReply(1, chunkDone, chunkErrorBit+1)[:16], 0xff, 0xff, 0xff, 0xff), dead: true},
		{name: "chunks without end", found: structuredReplies(), reply: bytes.Repeat(chunkReply(1, 0, chunkErrorBit+1, failure(5, "")...), 1100), dead: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := scripted(t, c.found, func(s *server) {
					s.asked()
					s.say(c.reply...)
					if c.dead {
						return
					}
					// What follows is understood.
					_, cookie := s.asked()
					if c.found.structured {
						s.say(chunkReply(cookie, chunkDone, chunkData, data(128, a...)...)...)
					} else {
						s.say(simpleReply(cookie, 0, a...)...)
					}
				})
				p := []byte("????????????????????????")
				err := client.ReadAt(t.Context(), p[8:16], 64)
				if !bytes.Equal(p[:8], []byte("????????")) || !bytes.Equal(p[16:], []byte("????????")) {
					t.Errorf("the memory around was written to: %q", p)
				}
				var answer *Error
				switch {
				case c.dead && (!errors.Is(err, ErrProtocol) || !errors.Is(client.Err(), ErrProtocol)):
					t.Errorf("got %v, and the connection %v", err, client.Err())
				case c.code != 0 && (!errors.As(err, &answer) || answer.Code != c.code):
					t.Errorf("got %v", err)
				case !c.dead && c.code == 0 && (err != nil || !bytes.Equal(p[8:16], a)):
					t.Errorf("got %q, %v", p[8:16], err)
				}
				if err := client.ReadAt(t.Context(), p[:8], 128); (err != nil) != c.dead {
					t.Errorf("the read behind it: %v", err)
				}
			})
		})
	}
}

func TestHolesOfRepliesAreCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := scripted(t, structuredReplies(), func(s *server) {
			s.asked()
			s.say(slices.Concat(chunkReply(1, 0, chunkData, data(2, 'a', 'b')...), chunkReply(1, chunkDone, chunkHole, hole(0, 2)...))...)
		})
		p := []byte("????")
		if err := client.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, []byte("\x00\x00ab")) {
			t.Errorf("got %q, %v", p, err)
		}
	})
}

func TestStatusReplies(t *testing.T) {
	for _, c := range []struct {
		name    string
		replies [][]byte
		want    []status
		code    Code
		dead    bool
	}{
		{name: "all at once", replies: [][]byte{chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 16, 0, 48, 3)...)}, want: []status{{16, false}, {48, true}}},
		{name: "bit by bit", replies: [][]byte{
			chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 16, 2)...), chunkReply(2, chunkDone, chunkBlockStatus, statuses(7, 48, 2)...)}, want: []status{{64, true}}},
		{name: "more than was asked for", replies: [][]byte{chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 32, 1, 1<<31, 2, 8, 0)...)}, want: []status{{32, false}, {32, true}}},
		{name: "an error", replies: [][]byte{simpleReply(1, 95)}, code: NotSupported},
		{name: "success without a status", replies: [][]byte{simpleReply(1, 0)}, dead: true},
		{name: "chunks without a status", replies: [][]byte{chunkReply(1, chunkDone, chunkNone)}, dead: true},
		{name: "a status of no bytes", replies: [][]byte{chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 0, 0)...)}, dead: true},
		{name: "another context's status", replies: [][]byte{chunkReply(1, chunkDone, chunkBlockStatus, statuses(8, 64, 0)...)}, dead: true},
		{name: "two statuses", replies: [][]byte{slices.Concat(
			chunkReply(1, 0, chunkBlockStatus, statuses(7, 64, 0)...), chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 64, 0)...))}, dead: true},
		{name: "half a status", replies: [][]byte{chunkReply(1, chunkDone, chunkBlockStatus, statuses(7, 64)...)}, dead: true},
		{name: "bytes instead", replies: [][]byte{chunkReply(1, chunkDone, chunkData, data(0, 'x')...)}, dead: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := scripted(t, structuredReplies(), func(s *server) {
					for _, reply := range c.replies {
						if command, _ := s.asked(); command != cmdBlockStatus {
							t.Errorf("asked for %d", command)
						}
						s.say(reply...)
					}
				})
				var got []status
				at := int64(64)
				err := client.Allocated(t.Context(), at, 64, func(off, length int64, zero bool) error {
					if off != at {
						t.Errorf("%d follows %d", off, at)
					}
					at += length
					got = append(got, status{length, zero})
					return nil
				})
				var answer *Error
				if c.dead != errors.Is(err, ErrProtocol) || c.code != 0 && (!errors.As(err, &answer) || answer.Code != c.code) {
					t.Errorf("got %v", err)
				}
				if !c.dead && c.code == 0 && (err != nil || !slices.Equal(got, c.want)) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		})
	}
}

func TestMoreRangesThanAreKeptAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		client := scripted(t, structuredReplies(), func(s *server) {
			for left, round := uint32(size), uint64(1); left > 0; round++ {
				s.asked()
				var pairs []uint32
				for i := range left / 8 {
					pairs = append(pairs, 8, i%2*stateZero)
				}
				s.say(chunkReply(round, chunkDone, chunkBlockStatus, statuses(7, pairs...)...)...)
				left -= min(left, maxStatus*8)
			}
		})
		at, ranges := int64(0), 0
		if err := client.Allocated(t.Context(), 0, size, func(off, length int64, zero bool) error {
			if off != at || length != 8 || zero != (ranges%2 == 1) {
				t.Fatalf("range %d: %d bytes at %d, zero: %v", ranges, length, off, zero)
			}
			at, ranges = at+length, ranges+1
			return nil
		}); err != nil || at != size {
			t.Errorf("told up to %d, %v", at, err)
		}
	})
}

func TestSilenceEndsTheConnectionOnlyWhileSomethingIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := scripted(t, agreed{}, func(s *server) {
			s.asked()
			s.say(simpleReply(1, 0, 'a')...)
			s.asked()
			time.Sleep(9 * time.Second)
			s.say(simpleReply(2, 0)...)
			time.Sleep(9 * time.Second)
			s.say('b')
			s.asked()
		})
		p := make([]byte, 1)
		for range 2 {
			if err := client.ReadAt(t.Context(), p, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // nothing is awaited
		}
		start := time.Now()
		if err := client.ReadAt(t.Context(), p, 0); !errors.Is(err, ErrIdle) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("it took %s, want 10 s", took)
		}
	})
}

func TestAServerThatTakesNoRequestsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		client := scripted(t, agreed{}, func(*server) { <-stuck })
		defer close(stuck)
		if err := client.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrIdle) {
			t.Errorf("got %v", err)
		}
	})
}

// TestACanceledReadReturnsAtOnce cancels at each stage of a reply.
func TestACanceledReadReturnsAtOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		found agreed
		reply []byte
	}{
		{"a simple reply", agreed{}, simpleReply(1, 0, []byte("abcdefgh")...)},
		{"a structured reply", structuredReplies(), slices.Concat(
			chunkReply(1, 0, chunkData, data(0, []byte("abcd")...)...), chunkReply(1, 0, chunkHole, hole(4, 2)...), chunkReply(1, chunkDone, chunkData, data(6, []byte("gh")...)...))},
		{"an error", structuredReplies(), chunkReply(1, chunkDone, chunkErrorBit+1, failure(5, "bad sector")...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for before := range c.reply {
				synctest.Test(t, func(t *testing.T) {
					canceled := make(chan struct{})
					client := scripted(t, c.found, func(s *server) {
						s.asked()
						s.say(c.reply[:before]...)
						<-canceled
						s.say(c.reply[before:]...)
						s.asked()
						if c.found.structured {
							s.say(chunkReply(2, chunkDone, chunkData, data(8, []byte("12345678")...)...)...)
						} else {
							s.say(simpleReply(2, 0, []byte("12345678")...)...)
						}
					})
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					start, p := time.Now(), make([]byte, 8)
					if err := client.ReadAt(ctx, p, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
						t.Fatalf("behind %d bytes: got %v after %s", before, err, time.Since(start))
					}
					for i := range p {
						p[i] = '!'
					}
					close(canceled)
					next := make([]byte, 8)
					if err := client.ReadAt(t.Context(), next, 8); err != nil || string(next) != "12345678" {
						t.Errorf("behind %d bytes: the next read brought %q, %v", before, next, err)
					}
					if string(p) != "!!!!!!!!" {
						t.Errorf("behind %d bytes: the late reply was written to its reader's memory: %q", before, p)
					}
				})
			}
		})
	}
}

func TestAReadThatWasNotSentIsCanceledWithoutATrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listening := make(chan struct{})
		client := scripted(t, agreed{}, func(s *server) {
			<-listening
			for range 2 {
				_, cookie := s.asked()
				s.say(simpleReply(cookie, 0, byte(cookie))...)
			}
		})
		first := make(chan error)
		go func() { first <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
		synctest.Wait() // the sender is busy with the first
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(listening)
		if err := <-first; err != nil {
			t.Error(err)
		}
		p := make([]byte, 1)
		if err := client.ReadAt(t.Context(), p, 0); err != nil || p[0] != 3 {
			t.Errorf("got %d, %v: want the third request", p, err)
		}
	})
}

func TestAReplyToARequestThatWasNotSentIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queued := make(chan struct{})
		client := scripted(t, agreed{}, func(s *server) {
			<-queued
			s.say(simpleReply(2, 0, 'x')...)
		})
		ended := make(chan error)
		for range 2 {
			go func() { ended <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
			synctest.Wait() // the sender is busy with the first
		}
		close(queued)
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestCloseDoesNotWaitForAServerThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		client := scripted(t, agreed{}, func(*server) { <-stuck })
		defer close(stuck)
		ended := make(chan error, 1)
		go func() { ended <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
		synctest.Wait()
		start := time.Now()
		if err := client.Close(); err != nil || time.Since(start) > time.Second {
			t.Errorf("it took %s, %v", time.Since(start), err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("the read ended with %v", err)
		}
	})
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		farewell := make(chan uint16, 1)
		client := scripted(t, agreed{}, func(s *server) {
			s.asked()
			command, _ := s.asked()
			farewell <- command
		})
		ended := make(chan error)
		go func() { ended <- client.ReadAt(t.Context(), make([]byte, 1), 0) }()
		synctest.Wait()
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("the read ended with %v", err)
		}
		if got := <-farewell; got != cmdDisconnect {
			t.Errorf("it took leave with %d", got)
		}
		if err := client.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("a read after Close: %v", err)
		}
	})
}

func TestAServerThatShutsDownIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		farewell := make(chan uint16, 1)
		client := scripted(t, agreed{}, func(s *server) {
			s.asked()
			s.say(simpleReply(1, uint32(ShuttingDown))...)
			command, _ := s.asked()
			farewell <- command
		})
		var answer *Error
		if err := client.ReadAt(t.Context(), make([]byte, 1), 0); !errors.As(err, &answer) || answer.Code != ShuttingDown {
			t.Errorf("got %v", err)
		}
		if got := <-farewell; got != cmdDisconnect {
			t.Errorf("it took leave with %d", got)
		}
		if client.Err() == nil {
			t.Error("the connection goes on")
		}
	})
}

func TestMessagesAreFitToBeShown(t *testing.T) {
	if got := printable([]byte("bad\x1b[2J\xffsector\n")); got != "bad\ufffd[2J\ufffdsector" {
		t.Errorf("got %q", got)
	}
	if got := printable(bytes.Repeat([]byte("x"), 1<<16)); len(got) != maxString {
		t.Errorf("it has %d bytes", len(got))
	}
}
