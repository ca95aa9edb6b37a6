package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/staging"
	"skylift/staging/bucket"
	"skylift/transfer"
)

// moveQuestion is a run of one server with one disk.
type moveQuestion struct {
	Source, Sink endpoint
	Server       hypervisor.ServerID
	Run          string
	Base         *staging.Base
	Compression  transfer.Compression
	Profile      string // where to put profiles; empty for none
}

type moveAnswer struct {
	Usage usage
	Base  staging.Base // for the next run
	Mode  staging.Mode
	Whole spent `json:"-"` // all of the process's life
}

// move is the connector's moving part: source, pipeline and store, put
// together as the daemon does, with its defaults.
func move(ctx context.Context, q moveQuestion) (_ *moveAnswer, err error) {
	defaults := config.DefaultConnector()
	debug.SetMemoryLimit((defaults.MemoryMiB + 96) << 20)
	log := logrus.New()
	log.SetOutput(io.Discard)
	source, err := openSource(q.Source, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close(context.WithoutCancel(ctx))) }()
	store, err := openStore(q.Sink, defaults, log)
	if err != nil {
		return nil, err
	}
	mover, err := transfer.New(transfer.Config{Memory: defaults.MemoryMiB << 20, Parallel: defaults.Parallel, Software: "bench", Log: log})
	if err != nil {
		return nil, err
	}
	server, err := find(ctx, source, string(q.Server))
	if err != nil {
		return nil, err
	}
	refs, err := source.Snapshot(ctx, hypervisor.RunID(q.Run), []hypervisor.ServerID{server}, hypervisor.QuiesceNever)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Remove(context.WithoutCancel(ctx), refs[0])) }()
	snapshot, err := source.Open(ctx, refs[0])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()

	finish, err := profile(q.Profile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, finish()) }()
	var progress transfer.Progress
	stop := meter()
	sealed, err := mover.Move(ctx, transfer.Task{
		Job: "bench", Run: q.Run, Snapshot: snapshot, Ref: refs[0], Disk: snapshot.Disks()[0],
		Base: q.Base, Store: store, Compression: q.Compression, Progress: &progress,
	})
	u := stop()
	if err != nil {
		return nil, err
	}
	u.Read, u.Sent, u.Stored = progress.Read.Load(), progress.Sent.Load(), progress.Stored.Load()
	m := sealed.Manifest
	return &moveAnswer{Usage: u, Mode: m.Mode, Base: staging.Base{
		Run: m.Run, Manifest: sealed.Sum, Digest: m.Digest, ChangeID: m.ChangeID, Size: m.Disk.Size,
	}}, nil
}

func openSource(at endpoint, log logrus.FieldLogger) (*vsphere.Source, error) {
	var failed error
	source, err := vsphere.New(vsphere.Config{
		URL: at.URL, User: at.User, Password: secret.New(at.Password), Installation: "bench", Log: log,
		Customize: func(t *http.Transport) {
			_, err := dial.Over(t, dial.Settings{CA: at.CertificatePEM, OnlyCA: true})
			failed = errors.Join(failed, err)
		},
	})
	return source, errors.Join(err, failed)
}

func openStore(at endpoint, c config.Connector, log logrus.FieldLogger) (*bucket.Store, error) {
	t, err := dial.NewTransport(dial.Settings{CA: at.CertificatePEM, OnlyCA: true, MaxConnsPerHost: c.Slots * c.Parallel})
	if err != nil {
		return nil, err
	}
	return bucket.New(bucket.Config{
		AWS: aws.Config{Region: at.Region, BaseEndpoint: &at.URL, HTTPClient: t.Client(),
			Credentials: credentials.NewStaticCredentialsProvider(at.User, at.Password, "")},
		PathStyle: true, Bucket: bucketName, Capabilities: bucket.Capabilities{ConditionalCreate: true}, Log: log,
	})
}

// find looks a server's ID up by its name.
func find(ctx context.Context, source *vsphere.Source, name string) (id hypervisor.ServerID, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	found := errors.New("found")
	err = source.Watch(ctx, func(c hypervisor.Change) error {
		if c.Server != nil && c.Server.Name == name {
			id = c.Server.ID
			return found
		}
		return nil
	})
	if errors.Is(err, found) {
		return id, nil
	}
	return "", fmt.Errorf("find server %s: %w", name, err)
}

// profile records where processor time and memory go, until finish is called.
func profile(path string) (finish func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	runtime.MemProfileRate = 64 << 10
	cpu, err := os.Create(path + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		allocations, err := os.Create(path + ".allocs")
		if err != nil {
			return errors.Join(err, cpu.Close())
		}
		return errors.Join(pprof.Lookup("allocs").WriteTo(allocations, 0), allocations.Close(), cpu.Close())
	}, nil
}
