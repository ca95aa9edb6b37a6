package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"skylift/internal/problem"
	"skylift/staging"
)

// Capabilities are what a server can do beyond what staging requires.
type Capabilities struct {
	// ConditionalCreate: If-None-Match keeps a second writer out.
	ConditionalCreate bool
	// Versioned: the bucket keeps versions, which Delete removes too.
	Versioned bool
	// Encryption is how the server says that it encrypts new objects, "AES256"
	// or "aws:kms"; empty when it says nothing.
	Encryption string
}

const (
	probeSize    = 256 << 10 // bytes of the object that is written
	probeWriters = 4         // that try to create one object at once
	cleanUpLimit = time.Minute
)

// probeRetry is the budget of a probe's operations: somebody waits for it.
var probeRetry = Retry{Attempts: 4, Elapsed: 30 * time.Second, Longest: 4 * time.Second}

// Probe writes, reads, lists and deletes objects under a random key in the
// prefix, and tells what the server can do. An error says what it lacks that
// staging requires: KindUnfit, or why it could not be asked.
func (s *Store) Probe(ctx context.Context) (caps Capabilities, err error) {
	quick := s.With(Capabilities{})
	quick.retry = probeRetry.orDefaults()
	p := &probe{store: quick, dir: "probe/" + rand.Text() + "/", first: make([]byte, probeSize), second: make([]byte, probeSize/2)}
	_, _ = rand.Read(p.first) // never fails
	_, _ = rand.Read(p.second)

	defer func() {
		if !p.wrote {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
		defer cancel()
		err = errors.Join(err, p.cleanUp(ctx))
	}()
	for _, step := range []func(context.Context) error{
		p.writes, p.lists, p.ranges, p.overwrites, p.checksums, p.conditions, p.deletes,
	} {
		if err := step(ctx); err != nil {
			return Capabilities{}, fmt.Errorf("probe: %w", err)
		}
	}
	return p.caps, nil
}

// probe is the state of one Probe.
type probe struct {
	store         *Store
	dir           string
	first, second []byte // random contents
	wrote         bool   // there may be something to clean up
	caps          Capabilities
}

func (p *probe) writes(ctx context.Context) error {
	op := p.store.operation("put", p.dir+"a")
	err := op.do(ctx, func() error {
		out, err := p.store.put(ctx, p.dir+"a", p.first, checksum(p.first), false)
		if err != nil {
			return err
		}
		p.caps.Versioned = aws.ToString(out.VersionId) != "" && *out.VersionId != "null"
		p.caps.Encryption = string(out.ServerSideEncryption)
		return nil
	})
	p.wrote = err == nil || statusOf(err) >= 500
	if err != nil {
		return err
	}
	return p.reads(ctx, "a", 0, -1, p.first, "an object is not what was just written")
}

// reads compares a range of an object with what it should be.
func (p *probe) reads(ctx context.Context, name string, off, n int64, want []byte, lack string) error {
	r, err := p.store.Get(ctx, p.dir+name, off, n)
	if errors.Is(err, staging.ErrNotFound) {
		return KindUnfit.New(err, "%s", lack)
	}
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return KindUnfit.New(nil, "%s", lack)
	}
	return nil
}

func (p *probe) lists(ctx context.Context) error {
	return p.listed(ctx, int64(len(p.first)), "a new object is not in the listing")
}

// listed sees that the listing shows one object of the given size.
func (p *probe) listed(ctx context.Context, size int64, lack string) error {
	var found []staging.Object
	err := p.store.List(ctx, p.dir, func(o staging.Object) error {
		found = append(found, o)
		return nil
	})
	if err != nil {
		return err
	}
	if len(found) != 1 || found[0] != (staging.Object{Key: p.dir + "a", Size: size}) {
		return KindUnfit.New(nil, "%s", lack)
	}
	return nil
}

func (p *probe) ranges(ctx context.Context) error {
	const from, to = probeSize / 3, probeSize / 2
	for _, r := range []struct {
		off, n int64
		want   []byte
		lack   string
	}{
		{from, to - from, p.first[from:to], "a range of an object is wrong"},
		{from, 2 * probeSize, p.first[from:], "a range past an object's end is not cut there"},
		{probeSize, 1, nil, "a range after an object's end is not empty"},
	} {
		if err := p.reads(ctx, "a", r.off, r.n, r.want, r.lack); err != nil {
			return err
		}
	}
	return nil
}

func (p *probe) overwrites(ctx context.Context) error {
	if err := p.store.Put(ctx, p.dir+"a", p.second); err != nil {
		return err
	}
	if err := p.reads(ctx, "a", 0, -1, p.second, "a replaced object is still read as it was"); err != nil {
		return err
	}
	return p.listed(ctx, int64(len(p.second)), "a replaced object is still listed as it was")
}

// checksums sends bytes under the checksum of others.
func (p *probe) checksums(ctx context.Context) error {
	op := p.store.operation("put", p.dir+"wrong")
	_, err := p.store.put(ctx, p.dir+"wrong", p.first, checksum(p.second), false)
	if err == nil {
		return KindUnfit.New(nil, "an object whose checksum is wrong is taken")
	}
	if status := statusOf(err); status < 400 || status >= 500 {
		kind, _ := judge(err)
		return op.fails(kind, err)
	}
	err = p.store.head(ctx, p.dir+"wrong")
	if err == nil {
		return KindUnfit.New(nil, "an object whose checksum is wrong is refused but kept")
	}
	return nil
}

// conditions sees whether If-None-Match keeps a second writer out, one that
// comes later and one that comes at the same time.
func (p *probe) conditions(ctx context.Context) error {
	create := func(name string, content []byte) (int, error) {
		_, err := p.store.put(ctx, p.dir+name, content, checksum(content), true)
		if err == nil {
			return http.StatusOK, nil
		}
		return statusOf(err), err
	}
	var wait sync.WaitGroup
	answers := make([]int, probeWriters)
	for i := range answers {
		wait.Go(func() { answers[i], _ = create("race", append([]byte{byte(i)}, p.second...)) })
	}
	wait.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	winner := -1
	for i, status := range answers {
		switch {
		case status == http.StatusOK && winner < 0:
			winner = i
		case status == http.StatusPreconditionFailed || status == http.StatusConflict:
		default: // a second winner, an answer that knows no conditions, or none
			return nil
		}
	}
	if winner < 0 {
		return nil
	}
	if status, _ := create("race", p.first); status != http.StatusPreconditionFailed {
		return nil
	}
	err := p.reads(ctx, "race", 0, -1, append([]byte{byte(winner)}, p.second...), "")
	if problem.Of(err) == KindUnfit {
		return nil
	}
	p.caps.ConditionalCreate = err == nil
	return err
}

func (p *probe) deletes(ctx context.Context) error {
	if err := p.store.Delete(ctx, []string{p.dir + "a", p.dir + "missing"}); err != nil {
		return err
	}
	r, err := p.store.Get(ctx, p.dir+"a", 0, -1)
	if err == nil {
		return errors.Join(KindUnfit.New(nil, "a deleted object is still there"), r.Close())
	}
	if !errors.Is(err, staging.ErrNotFound) {
		return err
	}
	return nil
}

// cleanUp deletes whatever the probe has left.
func (p *probe) cleanUp(ctx context.Context) error {
	return p.store.Delete(ctx, []string{p.dir + "a", p.dir + "wrong", p.dir + "race"})
}
