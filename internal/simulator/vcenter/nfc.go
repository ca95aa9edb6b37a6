package vcenter

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// serveNFC answers GET of /nfc/<ticket>/disk-<n>.vmdk, the URLs of a lease, by
// writing the disk while it is read. As on ESXi these know no ranges and the
// length is not told beforehand; the ticket is all that a client needs. The host is the one that is asked, nil where
// it is vCenter.
func (s *Server) serveNFC(w http.ResponseWriter, r *http.Request, h *Host) {
	file := strings.TrimPrefix(r.URL.Path, "/nfc/")
	conn := http.NewResponseController(w)
	w = s.arriveFile(w, r, Call{Method: r.Method + " /nfc", Path: file, Host: h.name()})
	if w == nil {
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, s.refuse("%s %s: files are only read", r.Method, r.URL.Path), http.StatusMethodNotAllowed)
		return
	}
	ticket, name, _ := strings.Cut(file, "/")
	s.world.RLock()
	l := s.leases[ticket]
	s.world.RUnlock()
	if l == nil {
		http.Error(w, s.refuse("%s %s: there was never such a lease", r.Method, r.URL.Path), http.StatusNotFound)
		return
	}
	disk, done := l.download(name)
	if disk == nil {
		http.Error(w, "the lease has ended, or has no such file", http.StatusNotFound)
		return
	}
	defer done()
	if !l.servedBy(h) {
		http.Error(w, s.refuse("%s %s: another host has that lease", r.Method, r.URL.Path), http.StatusNotFound)
		return
	}
	release := l.host.takeTransfer()
	if release == nil {
		http.Error(w, "out of HTTP sessions, try again later", http.StatusServiceUnavailable)
		return
	}
	defer release()
	if !s.pause(r.Context(), s.fileLatency(disk.datastore)) {
		return
	}
	written := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(written)
	watch.Go(func() {
		select {
		case <-l.stop: // also where the client reads no more
			if err := conn.SetWriteDeadline(time.Unix(1, 0)); err != nil {
				s.log.WithError(err).Warn("vCenter simulator: cutting a download")
			}
		case <-written:
		}
	})
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	if err := disk.stream(countingWriter{w, &s.served}, l.stop); err != nil {
		s.log.WithError(err).Debug("vCenter simulator: an export's download ended early")
		panic(http.ErrAbortHandler) // the client must see that bytes are missing
	}
}

type countingWriter struct {
	io.Writer
	n *atomic.Int64
}

// Write implements io.Writer.
func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n.Add(int64(n))
	return n, err
}
