package vsphere

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"skylift/hypervisor/vdisk"
)

// downloaded downloads what handler serves, in a bubble's own time.
func downloaded(t *testing.T, handler http.HandlerFunc, limits Limits, use func(*feed) error) error {
	d := frozenDisk(t, &folder{odd: func(_ int, w http.ResponseWriter, r *http.Request) bool { handler(w, r); return true }}, limits)
	s := d.snapshot.source
	u, err := url.Parse("http://vcenter/nfc/secret/disk-0.vmdk")
	if err != nil {
		t.Fatal(err)
	}
	return s.download(t.Context(), s.session.web, u, use)
}

func TestADownloadEndsWithItsSourcesSilence(t *testing.T) {
	limits := Limits{Idle: 10 * time.Second, ExportIdle: time.Minute}
	drying := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 1000))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		takes   time.Duration
	}{
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, limits.Idle},
		{"an answer that dries up", drying, limits.ExportIdle},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := downloaded(t, c.handler, limits, func(f *feed) error {
					_, err := io.Copy(io.Discard, f)
					return err
				})
				if took := time.Since(start); !errors.Is(err, errIdle) || took != c.takes {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func TestADownloadThatNobodyTakesIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := downloaded(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, Limits{ExportIdle: time.Second}, func(f *feed) error {
			for buf := make([]byte, 100<<10); ; {
				if _, err := f.Read(buf); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if err := sleep(t.Context(), time.Hour); err != nil {
					return err
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestATrialDoesNotWaitForADiskThatBeginsWithZeros(t *testing.T) {
	_, stream := exported(t, 6)
	header := 128 * 512 // with the tables that qemu-img has before the grains
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		fails   bool
	}{
		"silence behind the header": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(stream[:header])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, false},
		"an end behind the header": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stream[:header]) }, true},
		"an end within the header": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stream[:header/2]) }, true},
		"a grain and no more": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(stream[:len(stream)/2])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := downloaded(t, c.handler, Limits{}, func(f *feed) error {
					s, err := vdisk.NewStream(f)
					if err != nil {
						return err
					}
					return (&opened{Stream: s, feed: f}).glance()
				})
				if took := time.Since(start); (err != nil) != c.fails || took > glanceLimit {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func TestAStreamOfAnotherSizeIsAnotherDisk(t *testing.T) {
	disk, stream := exported(t, 6)
	s, err := vdisk.NewStream(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(disk))
	for _, c := range []struct {
		disk int64
		same bool
	}{
		{size, true}, {size - 512, true}, {size - 64<<10 + 512, true},
		{size - 64<<10, false}, {size + 512, false}, {size / 2, false}, {2 * size, false},
	} {
		if err := sameSize(s, c.disk); (err == nil) != c.same {
			t.Errorf("a stream of %d bytes for a disk of %d: %v", s.Size(), c.disk, err)
		}
	}
}

func TestACallLingersBehindItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		longer, cancel := lingering(ctx, 10*time.Second)
		defer cancel()
		if err := sleep(longer, time.Hour); err != nil {
			t.Errorf("it ended with its caller still there: %v", err)
		}
		start := time.Now()
		leave()
		<-longer.Done()
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("it lingered for %s", took)
		}
	})
}
