package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"skylift/internal/simulator/vcenter"
)

// The incremental run's disk: how much of it the guest has written when the
// first run begins, and how many blocks it writes before the second.
const (
	sparseSize    = 1 << 40
	sparseUsed    = 200
	sparseChanged = 1000
	blockSize     = 512 << 10
)

// sourceQuestion is what the source is asked: to start, to let a guest write
// random blocks, to be as slow as this from now on.
type sourceQuestion struct {
	Size    int64
	Write   int
	Latency time.Duration
}

// endpoint is where a server is.
type endpoint struct {
	URL            string
	CertificatePEM []byte
	User, Password string // of the source and of versitygw
	Region         string
}

// serveSource is the vCenter: a server for each kind of content, named after it.
func serveSource(ctx context.Context) (err error) {
	var server *vcenter.Server
	defer func() {
		if server != nil {
			err = errors.Join(err, server.Close())
		}
	}()
	rng := rand.NewChaCha8([32]byte{'w'})
	return answerAll(ctx, func(_ context.Context, q sourceQuestion) (*endpoint, error) {
		if server == nil {
			if server, err = startSource(q.Size); err != nil {
				return nil, err
			}
		}
		server.SetLatency(q.Latency, q.Latency)
		if err := write(server.VM("incremental").Disk(0), q.Write, rng); err != nil {
			return nil, err
		}
		return &endpoint{URL: server.URL.String(), CertificatePEM: server.CertificatePEM, User: server.User, Password: server.Password}, nil
	})
}

func startSource(size int64) (*vcenter.Server, error) {
	specs := []vcenter.ServerSpec{{Name: "incremental", ChangeTracking: true, Disks: []vcenter.DiskSpec{{Size: sparseSize, Content: vcenter.Memory()}}}}
	for name, base := range contents(size) {
		specs = append(specs, vcenter.ServerSpec{Name: name, ChangeTracking: true,
			// Switched off, so that the bare program can read the disk without a snapshot.
			Power: "poweredOff",
			Disks: []vcenter.DiskSpec{{Content: vcenter.Over(base)}}})
	}
	return vcenter.Start(vcenter.Config{Servers: specs})
}

// write is the guest writing whole blocks here and there.
func write(d *vcenter.Disk, blocks int, rng *rand.ChaCha8) error {
	p := make([]byte, blockSize)
	for range blocks {
		_, _ = rng.Read(p)
		at := int64(rng.Uint64() % (sparseSize / blockSize) * blockSize)
		if _, err := d.WriteAt(p, at); err != nil {
			return err
		}
	}
	return nil
}

// folder is where the source serves a server's disk.
func folder(server string) (path, query string) {
	return fmt.Sprintf("/folder/%s/%s-flat.vmdk", server, server), "dcPath=DC0&dsName=datastore1"
}
