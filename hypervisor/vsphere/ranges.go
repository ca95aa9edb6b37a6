package vsphere

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"skylift/hypervisor"
)

// answer is a response whose silence is limited: the watchdog counts while
// somebody waits for bytes, and never while they are being used.
type answer struct {
	*http.Response
	watchdog *time.Timer
	limit    time.Duration
}

func (a *answer) Read(p []byte) (int, error) {
	a.watchdog.Reset(a.limit)
	n, err := a.Body.Read(p)
	a.watchdog.Stop()
	return n, err
}

// rangeHeader asks for an extent (RFC 9110, section 14.2).
func rangeHeader(e hypervisor.Extent) string {
	return fmt.Sprintf("bytes=%d-%d", e.Offset, e.End()-1)
}

// checkRange makes sure that an answer holds exactly what was asked for, and
// returns the size of the whole file.
func checkRange(res *http.Response, want hypervisor.Extent) (total int64, err error) {
	if res.StatusCode != http.StatusPartialContent {
		return 0, statusError(res)
	}
	header := res.Header.Get("Content-Range")
	start, end, total, ok := parseContentRange(header)
	switch {
	case !ok:
		return 0, ReadRefused.New(nil, "the answer's Content-Range %q cannot be read", header)
	case start != want.Offset || end != want.End()-1:
		return 0, ReadRefused.New(nil, "asked for bytes %d-%d, the answer has %q", want.Offset, want.End()-1, header)
	case res.ContentLength >= 0 && res.ContentLength != want.Length:
		return 0, ReadRefused.New(nil, "asked for %d bytes, the answer has %d", want.Length, res.ContentLength)
	case res.Header.Get("Content-Encoding") != "":
		return 0, ReadRefused.New(nil, "the answer is encoded (%s) though nobody asked for that", res.Header.Get("Content-Encoding"))
	}
	return total, nil
}

// parseContentRange reads "bytes 0-511/1073741824" (RFC 9110, section 14.4).
func parseContentRange(header string) (start, end, total int64, ok bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, size, ok1 := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	total, err3 := strconv.ParseInt(size, 10, 64)
	ok = ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil && 0 <= start && start <= end && end < total
	return start, end, total, ok
}

// statusError tells what an unwelcome status means; those that may pass are
// no problem yet.
func statusError(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	status := fmt.Errorf("HTTP status %s: %q", res.Status, text)
	switch res.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return hypervisor.SnapshotGone.New(status, "a disk file is not on its datastore")
	case http.StatusForbidden:
		return PermissionDenied.New(status, "reading datastore files needs the privileges Datastore.Browse and Datastore.FileManagement on the datastore")
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		return ReadRefused.New(status, "the range of the file was not honored")
	}
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout {
		return status
	}
	return ReadRefused.New(status, "the file was not given")
}
