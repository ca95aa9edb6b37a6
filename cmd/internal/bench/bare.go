package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"skylift/config"
	"skylift/staging"
)

// bareQuestion asks for the first so many of the steps.
type bareQuestion struct {
	Source, Sink endpoint
	Server       string
	Size         int64
	Steps        int
}

// The steps of the work that cannot be avoided. Each needs those before it.
const (
	receive = 1 + iota
	hash
	compress
	send
)

// bare does the work that cannot be avoided and nothing else: no snapshot, no
// plan, no block map, no watchdogs, no retries. It works on pieces of the size
// of a segment, as many at once as the pipeline does.
func bare(ctx context.Context, q bareQuestion) (*usage, error) {
	encoder, err := staging.NewEncoder(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	b := &bareWork{bareQuestion: q, encode: encoder.EncodeAll, from: bareClient(q.Source), to: bareClient(q.Sink)}
	address, err := url.Parse(q.Source.URL)
	if err != nil {
		return nil, err
	}
	address.Path, address.RawQuery = folder(q.Server)
	b.address = address.String()
	stop := meter()
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range config.DefaultConnector().Parallel {
		group.Go(func() error { return b.work(ctx, &next) })
	}
	err = group.Wait()
	u := stop()
	u.Read, u.Sent, u.Stored = b.read.Load(), b.sent.Load(), b.stored.Load()
	return &u, err
}

type bareWork struct {
	bareQuestion
	address            string
	encode             func(src, dst []byte) []byte
	from, to           *http.Client
	read, sent, stored atomic.Int64
	sums               atomic.Uint32 // of all hashes: nobody may think them unused
}

func bareClient(to endpoint) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(to.CertificatePEM)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}}
}

const pieceSize = staging.SegmentBlocks * staging.BlockSize

func (b *bareWork) work(ctx context.Context, next *atomic.Int64) error {
	block, out := make([]byte, staging.BlockSize), make([]byte, 0, staging.SegmentBuffer(staging.SegmentBlocks))
	for {
		at := (next.Add(1) - 1) * pieceSize
		if at >= b.Size {
			return nil
		}
		out = out[:0]
		err := b.get(ctx, at, min(pieceSize, b.Size-at), block, func() {
			if b.Steps < hash || staging.IsZero(block) {
				return
			}
			sum := sha256.Sum256(block)
			b.sums.Add(uint32(sum[0]))
			b.sent.Add(staging.BlockSize)
			if b.Steps >= compress {
				out = b.encode(block, out)
			}
		})
		if err == nil && b.Steps >= send && len(out) > 0 {
			err = b.put(ctx, at, out)
		}
		if err != nil {
			return err
		}
	}
}

// get receives a range block by block.
func (b *bareWork) get(ctx context.Context, at, n int64, block []byte, use func()) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.address, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(b.Source.User, b.Source.Password)
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+n-1))
	res, err := b.from.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("GET %s: %s", b.address, res.Status)
	}
	for ; n > 0; n -= staging.BlockSize {
		if _, err := io.ReadFull(res.Body, block); err != nil {
			return err
		}
		b.read.Add(staging.BlockSize)
		use()
	}
	// The end must be seen for the connection to be used again.
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func (b *bareWork) put(ctx context.Context, at int64, p []byte) error {
	address := fmt.Sprintf("%s/%s/bare/segment-%d", b.Sink.URL, bucketName, at/pieceSize)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(p))
	if err != nil {
		return err
	}
	res, err := b.to.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("PUT %s: %s", address, res.Status)
	}
	b.stored.Add(int64(len(p)))
	return err
}
