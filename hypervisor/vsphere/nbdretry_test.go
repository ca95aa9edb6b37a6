package vsphere

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere/nbd"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

// nbdServer serves one export with the oldest replies there are, over
// connections in memory so that time can be simulated around it.
type nbdServer struct {
	content []byte
	// odd may decide about the n-th read, counted from 1: an error number, or
	// false for a connection that ends.
	odd func(n int) (code uint32, ok bool)
	// size, when set, is what the n-th connection is told.
	size func(connection int) int

	mu          sync.Mutex
	reads       int
	connections int
	served      sync.WaitGroup
}

func (s *nbdServer) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections++
	size := len(s.content)
	if s.size != nil {
		size = s.size(s.connections)
	}
	s.served.Go(func() {
		defer far.Close()
		s.serve(far, size)
	})
	return near, nil
}

func (s *nbdServer) serve(conn net.Conn, size int) {
	_, _ = conn.Write([]byte("NBDMAGICIHAVEOPT\x00\x02")) // not the fixed newstyle
	var flags [4]byte
	_, _ = io.ReadFull(conn, flags[:])
	var option [16]byte
	_, _ = io.ReadFull(conn, option[:])
	_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(option[12:])))
	_, _ = conn.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, uint64(size)), 3))
	for {
		var request [28]byte
		if _, err := io.ReadFull(conn, request[:]); err != nil || binary.BigEndian.Uint16(request[6:]) != 0 {
			return
		}
		s.mu.Lock()
		s.reads++
		n := s.reads
		s.mu.Unlock()
		var code uint32
		if s.odd != nil {
			var ok bool
			if code, ok = s.odd(n); !ok {
				return
			}
		}
		reply := binary.BigEndian.AppendUint32([]byte{0x67, 0x44, 0x66, 0x98}, code)
		reply = append(reply, request[8:16]...)
		if code == 0 {
			off, length := binary.BigEndian.Uint64(request[16:]), binary.BigEndian.Uint32(request[24:])
			reply = append(reply, s.content[off:][:length]...)
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// nbdDisk is a disk that s serves, in a session that is logged in.
func nbdDisk(t *testing.T, s *nbdServer) *disk {
	log := logrus.New()
	log.SetOutput(io.Discard)
	source, err := New(Config{URL: "http://vcenter/sdk", User: "u", Password: secret.New("p"), Installation: "x", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(s.content))
	e := &nbdExport{source: source, config: nbd.Config{Address: "nbd:10809", Dial: s.dial, Idle: 10 * time.Second}, size: size}
	e.connections(1)
	t.Cleanup(func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
		s.served.Wait()
	})
	return &disk{virtualDisk: virtualDisk{size: size}, snapshot: &snapshot{source: source}, title: "web, disk 1", way: e}
}

func TestAReadThatFailsOnTheNBDServerIsTriedAgain(t *testing.T) {
	for name, odd := range map[string]func(n int) (uint32, bool){
		"errors":             func(n int) (uint32, bool) { return uint32(n % 3 * 5), true },
		"ended connections":  func(n int) (uint32, bool) { return 0, n%3 == 0 },
		"a shutdown in time": func(n int) (uint32, bool) { return uint32(n % 2 * 108), true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &nbdServer{content: randomBytes(6*block + 512), odd: odd}
				got, err := read(t.Context(), nbdDisk(t, s), hypervisor.Extent{Length: int64(len(s.content))})
				if err != nil || !bytes.Equal(got, s.content) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			})
		})
	}
}

func TestTheBudgetOfRetriesOnTheNBDServerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &nbdServer{content: randomBytes(4 * block), odd: func(n int) (uint32, bool) { return uint32(n / 3 * 5), true }}
		start := time.Now()
		got, err := read(t.Context(), nbdDisk(t, s), hypervisor.Extent{Length: 4 * block})
		if !problem.Has(err, ReadFailed) || len(got) != 2*block || s.reads != 2+readTries {
			t.Errorf("after %d reads and %d bytes: %v", s.reads, len(got), err)
		}
		if took := time.Since(start); took > readLimit {
			t.Errorf("it took %s", took)
		}
	})
}

func TestAnExportThatChangesItsSizeIsNotReadOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &nbdServer{content: randomBytes(4 * block), odd: func(n int) (uint32, bool) { return 0, n != 2 }}
		s.size = func(connection int) int { return len(s.content) + (connection-1)*block }
		got, err := read(t.Context(), nbdDisk(t, s), hypervisor.Extent{Length: 4 * block})
		if !problem.Has(err, NBDRefused) || len(got) != block {
			t.Errorf("after %d bytes: %v", len(got), err)
		}
	})
}

func TestASlowReceiverIsNoSilenceOfTheNBDServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &nbdServer{content: randomBytes(3 * block)}
		if err := nbdDisk(t, s).Read(t.Context(), []hypervisor.Extent{{Length: 3 * block}}, func(int64, []byte, int64) error {
			return sleep(t.Context(), time.Hour)
		}); err != nil || s.connections != 1 {
			t.Errorf("after %d connections: %v", s.connections, err)
		}
	})
}

func TestASilentNBDServerIsDialedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan struct{})
		s := &nbdServer{content: randomBytes(2 * block), odd: func(n int) (uint32, bool) {
			if n == 2 {
				<-silent
			}
			return 0, true
		}}
		start := time.Now()
		got, err := read(t.Context(), nbdDisk(t, s), hypervisor.Extent{Length: 2 * block})
		close(silent)
		if err != nil || !bytes.Equal(got, s.content) || s.connections != 2 {
			t.Errorf("got %d bytes over %d connections, %v", len(got), s.connections, err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("it took %s, want one silence of 10 s", took)
		}
	})
}

func TestAReadFromTheNBDServerEndsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan struct{})
		s := &nbdServer{content: randomBytes(block), odd: func(int) (uint32, bool) { <-silent; return 0, true }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := read(ctx, nbdDisk(t, s), hypervisor.Extent{Length: block}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		close(silent)
	})
}
