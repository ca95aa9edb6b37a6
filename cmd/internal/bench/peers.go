package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"skylift/hypervisor"
	"skylift/internal/simulator/vcenter"
	"skylift/transfer"
)

// peers is the same disks brought into the same S3 server by the connector and
// by other programs.
type peers struct {
	Programs []string // and their versions
	Disks    []compared
}

// compared is one disk at one latency of the source.
type compared struct {
	Data    string
	Latency time.Duration
	Ways    []way // the connector's first
}

// way is how a disk got there, and what that took in each round.
type way struct {
	Name    string
	Missing string `json:",omitempty"` // why it was left out
	Rounds  []spent
}

// bring copies a disk into the bucket of an S3 server whose objects lie in a
// directory.
type bring func(ctx context.Context, to endpoint, objects string) (spent, error)

// peers measures all ways in turn. Each round begins with another one, and each
// copy gets an S3 server of its own: none meets what another one left behind.
func (b *bench) peers(ctx context.Context) (*peers, error) {
	p := &peers{Programs: versions(ctx)}
	content := contents(int64(b.sizeMiB) << 20)
	for _, data := range b.disks {
		for _, latency := range b.latencies {
			c, err := b.compare(ctx, data, content[data], latency)
			if err != nil {
				return nil, err
			}
			p.Disks = append(p.Disks, c)
		}
	}
	return p, nil
}

func (b *bench) compare(ctx context.Context, data string, content vcenter.Base, latency time.Duration) (c compared, err error) {
	var at endpoint
	if err := b.source.call(sourceQuestion{Latency: latency}, &at); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, b.source.call(sourceQuestion{}, &at)) }()
	c = compared{Data: data, Latency: latency, Ways: []way{{Name: "skylift"}}}
	brings := []bring{b.ours(data)}
	for _, chain := range chains {
		c.Ways = append(c.Ways, way{Name: chain.name, Missing: chain.missing(ctx)})
		brings = append(brings, b.theirs(chain, data, content))
	}
	for round := range b.rounds {
		for i := range brings {
			turn := (round + i) % len(brings)
			if c.Ways[turn].Missing != "" {
				continue
			}
			err := withS3(ctx, func(to endpoint, objects string) error {
				took, err := brings[turn](ctx, to, objects)
				c.Ways[turn].Rounds = append(c.Ways[turn].Rounds, took)
				return err
			})
			if err != nil {
				return c, fmt.Errorf("%s: %w", c.Ways[turn].Name, err)
			}
		}
	}
	return c, nil
}

// ours is a run of the connector, as it is set up by default.
func (b *bench) ours(data string) bring {
	return func(ctx context.Context, to endpoint, _ string) (spent, error) {
		moved, err := b.move(ctx, to, moveQuestion{Server: hypervisor.ServerID(data), Compression: transfer.Auto}, false)
		if err != nil {
			return spent{}, err
		}
		return moved.Whole, nil
	}
}

// theirs is a copy by other programs, which is compared with the disk afterwards.
func (b *bench) theirs(c chain, data string, content vcenter.Base) bring {
	return func(ctx context.Context, to endpoint, objects string) (took spent, err error) {
		dir, err := os.MkdirTemp("", "bench-*")
		if err != nil {
			return spent{}, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		j, err := newJob(dir, data, content.Size(), b.from, to)
		if err != nil {
			return spent{}, err
		}
		began := time.Now()
		if err := c.copy(ctx, j); err != nil {
			return spent{}, err
		}
		return spent{Wall: time.Since(began), CPU: j.cpu}, isCopy(filepath.Join(objects, imageKey), content)
	}
}

// isCopy makes sure that a file holds a disk's bytes.
func isCopy(path string, content vcenter.Base) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err := f.Stat(); err != nil || info.Size() != content.Size() {
		return fmt.Errorf("the copy in S3 is not of the disk's size: %v, %w", info, err)
	}
	got, want := make([]byte, runSize), make([]byte, runSize)
	for at := int64(0); at < content.Size(); at += runSize {
		n := min(runSize, content.Size()-at)
		if _, err := io.ReadFull(f, got[:n]); err != nil {
			return err
		}
		if _, err := content.ReadAt(want[:n], at); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("the copy in S3 differs from the disk in the %d bytes at %d", n, at)
		}
	}
	return nil
}
