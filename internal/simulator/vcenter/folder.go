package vcenter

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// transferSize is how much of a file goes from its disk to the connection at a
// time: a large write lets TLS fill whole records.
const transferSize = 1 << 20

// serveFolder answers GET and HEAD of /folder/<path>?dcPath=&dsName= for
// descriptors, and for flat and delta files whose bytes stand still. The host is
// the one that is asked directly, nil where vCenter is.
func (s *Server) serveFolder(w http.ResponseWriter, r *http.Request, h *Host) {
	file, query := strings.TrimPrefix(r.URL.Path, "/folder/"), r.URL.Query()
	w = s.arriveFile(w, r, Call{Method: r.Method + " /folder", Path: file, Host: h.name()})
	if w == nil {
		return
	}
	defer s.sessions.use(r)()
	if !s.admit(w, r, h) {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, s.refuse("%s %s: files are only read", r.Method, r.URL.Path), http.StatusMethodNotAllowed)
		return
	}
	if h != nil || s.cfg.Standalone {
		// A host has one datacenter, and it is the default.
		if dc := strings.Trim(query.Get("dcPath"), "/"); dc == "" || dc == "ha-datacenter" {
			query.Set("dcPath", s.cfg.Datacenter)
		}
	}
	store := query.Get("dsName")
	if h != nil && !h.mounts(store) {
		http.Error(w, s.refuse("%s %s: host %s has no datastore %q", r.Method, r.URL, h.name(), store), http.StatusNotFound)
		return
	}
	if why := s.mayRead(store); why != "" {
		http.Error(w, why, http.StatusForbidden)
		return
	}
	if h == nil {
		h = s.hostOf(file)
	}
	release := h.takeTransfer()
	if release == nil {
		http.Error(w, "out of HTTP sessions, try again later", http.StatusServiceUnavailable)
		return
	}
	defer release()
	content, failed := s.open(file, query)
	if failed != nil {
		http.Error(w, s.refuse("%s %s: %s", r.Method, r.URL, failed.why), failed.status)
		return
	}
	defer func() { // also when the transfer is broken off
		if err := content.close(); err != nil {
			s.log.WithError(err).Warn("vCenter simulator: closing a file")
		}
	}()
	if s.pause(r.Context(), s.fileLatency(store)) {
		s.serveContent(w, r, content)
	}
}

// arriveFile counts a request for a file and lets Config.Fault have it; the
// answer goes to the returned writer, which is nil where it was given.
func (s *Server) arriveFile(w http.ResponseWriter, r *http.Request, call Call) http.ResponseWriter {
	err := s.arrive(r.Context(), call)
	var status HTTPStatus
	var after DropAfter
	switch {
	case errors.Is(err, ErrDropped), errors.Is(err, ErrAnswerLost):
		panic(http.ErrAbortHandler)
	case errors.As(err, &status):
		w.WriteHeader(int(status))
		return nil
	case errors.As(err, &after):
		return &shortWriter{w, int64(after)}
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil
	}
	return w
}

// admit says whether the client may have files, and answers where not.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, h *Host) bool {
	switch {
	case h == nil && (s.authorized(r) || s.cfg.Standalone && s.places.hosts[0].ticketed(w, r)):
		return true
	case h != nil && h.lockdown():
		http.Error(w, "the host is in lockdown mode", http.StatusForbidden)
		return false
	case h != nil && h.ticketed(w, r):
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
	http.Error(w, "not authorized", http.StatusUnauthorized)
	return false
}

// hostOf is the host of the server that a file belongs to; nil where none does.
func (s *Server) hostOf(file string) *Host {
	s.world.RLock()
	defer s.world.RUnlock()
	dir, _, _ := strings.Cut(file, "/")
	if vm := s.dirs[dir]; vm != nil {
		return vm.host
	}
	return nil
}

// openFile is a file under /folder that is being read.
type openFile struct {
	io.ReaderAt
	size  int64
	close func() error
}

type openError struct {
	status int
	why    string
}

// open finds a file by its datastore and path, ready to be read.
func (s *Server) open(file string, query url.Values) (*openFile, *openError) {
	f, failed := s.find(file, query)
	if f == nil {
		return nil, failed
	}
	if d, ok := f.ReaderAt.(*deltaFile); ok {
		size, err := d.build() // too long a work to be done under the locks
		if err != nil {
			return nil, &openError{http.StatusInternalServerError, errors.Join(err, f.close()).Error()}
		}
		f.size = size
	}
	return f, nil
}

func (s *Server) find(file string, query url.Values) (*openFile, *openError) {
	store := query.Get("dsName")
	if dc := strings.Trim(query.Get("dcPath"), "/"); dc != s.cfg.Datacenter {
		return nil, &openError{http.StatusNotFound, fmt.Sprintf("there is no datacenter %q", dc)}
	}
	s.world.RLock()
	defer s.world.RUnlock()
	dir, _, _ := strings.Cut(file, "/")
	if vm := s.dirs[dir]; vm != nil {
		for _, d := range append(append([]*Disk(nil), vm.disks...), vm.detached...) {
			if d.spec.Datastore != store {
				continue
			}
			if f, failed := d.open(file); f != nil || failed != nil {
				return f, failed
			}
		}
	}
	return nil, &openError{http.StatusNotFound, fmt.Sprintf("there is no file [%s] %s", store, file)}
}

// open looks for a file among those of the disk. The caller holds world.
func (d *Disk) open(file string) (*openFile, *openError) {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	running := d.vm.spec.Power == types.VirtualMachinePowerStatePoweredOn
	for _, l := range d.v.layers {
		switch {
		case l.file == file:
			text := strings.NewReader(d.descriptor(l))
			return &openFile{text, text.Size(), func() error { return nil }}, nil
		case d.dataFile(l) != file || d.spec.RDM != "":
			continue
		case l != d.v.live && running && d.vm.quirks.FlatLocked:
			return nil, &openError{http.StatusForbidden, "the file is locked by the running server"}
		case l == d.v.live && running:
			return nil, &openError{http.StatusForbidden, "the file is in use: a running server's disk must be frozen by a snapshot first"}
		case l.parent != nil:
			f := d.openDelta(l)
			return &openFile{f, 0, f.release}, nil
		case l == d.v.live:
			return &openFile{liveDisk{d.v}, d.v.size, func() error { return nil }}, nil
		default:
			w := d.v.pin(l, d.v.size)
			return &openFile{w, w.size, w.release}, nil
		}
	}
	return nil, nil
}

type liveDisk struct{ v *volume }

func (l liveDisk) ReadAt(p []byte, off int64) (int, error) { return l.v.readLive(p, off) }

// serveContent answers the whole file, or one range of it with 206.
func (s *Server) serveContent(w http.ResponseWriter, r *http.Request, f *openFile) {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Accept-Ranges", "bytes")
	part, status := Extent{0, f.size}, http.StatusOK
	if header := r.Header.Get("Range"); header != "" {
		var err error
		if part, err = parseRange(header, f.size); err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", f.size))
			http.Error(w, s.refuse("%s %s: %v", r.Method, r.URL.Path, err), http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Offset, part.End()-1, f.size))
	}
	h.Set("Content-Length", strconv.FormatInt(part.Length, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	if err := s.copy(w, f, part); err != nil {
		s.log.WithError(err).Debug("vCenter simulator: file transfer ended early")
		panic(http.ErrAbortHandler) // the client must see that bytes are missing
	}
}

func (s *Server) copy(w io.Writer, f io.ReaderAt, part Extent) error {
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	for at := part.Offset; at < part.End(); {
		p := (*buf)[:min(int64(len(*buf)), part.End()-at)]
		if _, err := f.ReadAt(p, at); err != nil {
			return err
		}
		n, err := w.Write(p)
		s.served.Add(int64(n))
		if err != nil {
			return err
		}
		at += int64(len(p))
	}
	return nil
}

// Served counts the bytes of files that were handed to connections so far,
// whether or not they reached the client.
func (s *Server) Served() int64 { return s.served.Load() }

func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { p := make([]byte, transferSize); return &p }}
}

// parseRange reads a Range header of one range, as RFC 9110 section 14 has it.
func parseRange(header string, size int64) (Extent, error) {
	bad := fmt.Errorf("the range %q of a file of %d bytes is not one that is served", header, size)
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return Extent{}, bad
	}
	from, err := strconv.ParseUint(first, 10, 63)
	if first == "" { // the last n bytes
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil || n == 0 || size == 0 {
			return Extent{}, bad
		}
		n = min(n, uint64(size))
		return Extent{size - int64(n), int64(n)}, nil
	}
	if err != nil || int64(from) >= size {
		return Extent{}, bad
	}
	to := uint64(size - 1)
	if last != "" {
		if to, err = strconv.ParseUint(last, 10, 63); err != nil || to < from {
			return Extent{}, bad
		}
		to = min(to, uint64(size-1))
	}
	return Extent{int64(from), int64(to-from) + 1}, nil
}

// shortWriter breaks the connection after so many bytes of the body.
type shortWriter struct {
	http.ResponseWriter
	left int64
}

// Write implements io.Writer.
func (w *shortWriter) Write(p []byte) (int, error) {
	if int64(len(p)) <= w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	n, err := w.ResponseWriter.Write(p[:w.left])
	w.left = 0
	if err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	if err == nil {
		err = errors.New("connection dropped on request")
	}
	return n, err
}
