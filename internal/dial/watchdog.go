package dial

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// watchdog calls bite when one request waits for the network longer than the
// limit. It runs only while the network is waited for: not while the request's
// body is being supplied nor while nobody reads the response's.
type watchdog struct {
	limit time.Duration
	fired atomic.Bool

	mu      sync.Mutex
	timer   *time.Timer
	replied bool // the request's side is over
}

func newWatchdog(limit time.Duration, bite func()) *watchdog {
	w := &watchdog{limit: limit}
	w.timer = time.AfterFunc(limit, func() {
		w.fired.Store(true)
		bite()
	})
	w.timer.Stop()
	return w
}

// resume and pause are for the time until the response's header. The
// transport may still read the request's body after that: they then do nothing.
func (w *watchdog) resume() { w.untilReply(func() { w.timer.Reset(w.limit) }) }
func (w *watchdog) pause()  { w.untilReply(func() { w.timer.Stop() }) }

// answered ends the time of resume and pause and begins that of await and rest.
func (w *watchdog) answered() {
	w.untilReply(func() {
		w.timer.Stop()
		w.replied = true
	})
}

func (w *watchdog) untilReply(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.replied {
		do()
	}
}

// await and rest surround a read of the response's body.
func (w *watchdog) await() { w.timer.Reset(w.limit) }
func (w *watchdog) rest()  { w.timer.Stop() }

// guardUpload has the watchdog rest while the request's body is being read.
// The transport reads it in small pieces and writes each before the next.
func guardUpload(req *http.Request, w *watchdog) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	req.Body = &upload{req.Body, w}
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return &upload{body, w}, nil
		}
	}
}

// upload is a request's body.
type upload struct {
	io.ReadCloser
	w *watchdog
}

func (u *upload) Read(p []byte) (int, error) {
	u.w.pause()
	n, err := u.ReadCloser.Read(p)
	u.w.resume()
	return n, err
}

// download is a response's body.
type download struct {
	body    io.ReadCloser
	w       *watchdog
	end     func() // releases the request's context
	failure func(error) error
}

func (d *download) Read(p []byte) (int, error) {
	d.w.await()
	n, err := d.body.Read(p)
	d.w.rest()
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		err = d.failure(err)
	}
	d.end()
	return n, err
}

func (d *download) Close() error {
	err := d.body.Close()
	d.w.rest()
	d.end()
	return err
}
