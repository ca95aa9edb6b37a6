package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"skylift/hypervisor"
	"skylift/internal/simulator/s3"
	"skylift/transfer"
)

const bucketName = "staging"

// report is everything that was measured.
type report struct {
	Processors int
	Processor  string
	Go         string
	DiskBytes  int64
	Rounds     int
	Full       []full
	Versitygw  *versity     `json:",omitempty"`
	Changed    *incremental `json:",omitempty"`
	Peers      *peers       `json:",omitempty"`
}

// full is the rounds of full runs of one kind of data.
type full struct {
	Data      string
	Connector []usage
	// Bare has the rounds of each step with those before it.
	Bare map[string][]usage
}

// versity is full runs of random data into a real S3 server.
type versity struct{ Connector []usage }

// incremental is the runs of the sparse disk.
type incremental struct {
	Size          int64
	ChangedBlocks int
	First         usage
	Runs          []usage
	Mode          string // of the last
}

var steps = []struct {
	name string
	upTo int
}{{"receive", receive}, {"hash", hash}, {"compress", compress}, {"send", send}}

// bench is a measurement under way.
type bench struct {
	options
	source *child
	from   endpoint
	to     endpoint
	runs   int
}

// measure starts the servers and measures one thing after the other.
func measure(ctx context.Context, o options) (r *report, err error) {
	b := &bench{options: o}
	r = &report{Processors: runtime.NumCPU(), Processor: processorName(), Go: runtime.Version(), DiskBytes: int64(o.sizeMiB) << 20, Rounds: o.rounds}
	if b.source, err = start(ctx, asSource); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.source.end()) }()
	if err := b.source.call(sourceQuestion{Size: r.DiskBytes, Write: sparseUsed}, &b.from); err != nil {
		return nil, err
	}
	sink, err := start(ctx, asSink)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sink.end()) }()
	if err := sink.call(struct{}{}, &b.to); err != nil {
		return nil, err
	}
	for _, data := range []string{"random", "text", "zero"} {
		if b.wanted(data) {
			f, err := b.full(ctx, data, r.DiskBytes)
			if err != nil {
				return nil, err
			}
			r.Full = append(r.Full, f)
		}
	}
	if b.wanted("versitygw") {
		if r.Versitygw, err = b.versitygw(ctx); err != nil {
			return nil, err
		}
	}
	if b.wanted("incremental") {
		if r.Changed, err = b.incremental(ctx); err != nil {
			return nil, err
		}
	}
	if b.wanted("peers") {
		if r.Peers, err = b.peers(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (b *bench) wanted(name string) bool {
	return len(b.only) == 0 || slices.Contains(b.only, name)
}

// full measures the connector and the bare work in turn, so that what else
// happens on the machine meets both.
func (b *bench) full(ctx context.Context, data string, size int64) (full, error) {
	f := full{Data: data, Bare: map[string][]usage{}}
	for round := range b.rounds {
		connector := func() error {
			moved, err := b.move(ctx, b.to, moveQuestion{Server: hypervisor.ServerID(data)}, round == b.rounds-1)
			if err == nil {
				f.Connector = append(f.Connector, moved.Usage)
			}
			return err
		}
		turn := []func() error{connector}
		for _, step := range slices.Backward(steps) {
			turn = append(turn, func() error {
				var u usage
				_, err := once(ctx, asBare, bareQuestion{Source: b.from, Sink: b.to, Server: data, Size: size, Steps: step.upTo}, &u)
				f.Bare[step.name] = append(f.Bare[step.name], u)
				return err
			})
		}
		if round%2 == 1 {
			// Neither is always the first.
			turn[0], turn[1] = turn[1], turn[0]
		}
		for _, part := range turn {
			if err := part(); err != nil {
				return f, err
			}
		}
		if moved, bare := f.Connector[round], f.Bare["send"][round]; bare.Read != moved.Read || bare.Sent != moved.Sent {
			return f, fmt.Errorf("the connector read %d and sent %d bytes, the bare work %d and %d: they did not do the same",
				moved.Read, moved.Sent, bare.Read, bare.Sent)
		}
	}
	return f, nil
}

// move makes one run with a connector of its own.
func (b *bench) move(ctx context.Context, to endpoint, q moveQuestion, profiled bool) (*moveAnswer, error) {
	b.runs++
	q.Source, q.Sink, q.Run = b.from, to, fmt.Sprintf("run%d", b.runs)
	if profiled && b.profile != "" {
		q.Profile = filepath.Join(b.profile, string(q.Server))
	}
	if q.Compression == "" {
		q.Compression = transfer.Zstd
	}
	var a moveAnswer
	var err error
	if a.Whole, err = once(ctx, asConnector, q, &a); err != nil {
		return nil, fmt.Errorf("run of %s: %w", q.Server, err)
	}
	return &a, nil
}

func (b *bench) versitygw(ctx context.Context) (*versity, error) {
	v := &versity{}
	err := withS3(ctx, func(to endpoint, _ string) error {
		for range b.rounds {
			moved, err := b.move(ctx, to, moveQuestion{Server: "random"}, false)
			if err != nil {
				return err
			}
			v.Connector = append(v.Connector, moved.Usage)
		}
		return nil
	})
	return v, err
}

// withS3 lets use have a real S3 server, empty, and where it keeps its objects.
func withS3(ctx context.Context, use func(to endpoint, objects string) error) (err error) {
	dir, err := os.MkdirTemp("", "bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := s3.Start(ctx, s3.Config{Dir: dir, Buckets: []string{bucketName}, Args: []string{asS3}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	to := endpoint{URL: server.Endpoint, CertificatePEM: server.CAPEM, User: server.AccessKey, Password: server.SecretKey.Reveal(), Region: server.Region}
	return use(to, filepath.Join(dir, "objects", bucketName))
}

// incremental makes a first run of the sparse disk, then one after another
// with so many blocks changed before each.
func (b *bench) incremental(ctx context.Context) (*incremental, error) {
	q := moveQuestion{Server: "incremental"}
	first, err := b.move(ctx, b.to, q, false)
	if err != nil {
		return nil, err
	}
	in := &incremental{Size: sparseSize, ChangedBlocks: sparseChanged, First: first.Usage}
	q.Base = &first.Base
	for round := range b.rounds {
		var at endpoint
		if err := b.source.call(sourceQuestion{Write: sparseChanged}, &at); err != nil {
			return nil, err
		}
		moved, err := b.move(ctx, b.to, q, round == b.rounds-1)
		if err != nil {
			return nil, err
		}
		in.Runs, in.Mode, q.Base = append(in.Runs, moved.Usage), string(moved.Mode), &moved.Base
	}
	return in, nil
}

// median returns the middle of what of gives for each round.
func median[T any](rounds []T, of func(T) float64) float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = of(r)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// processorName is the model as Linux and FreeBSD tell it; empty elsewhere.
func processorName() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // there is none on other systems
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return ""
}
