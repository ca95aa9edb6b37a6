package s3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

const (
	// childEnv marks a test binary that is to be the server.
	childEnv = "SKYLIFT_SIMULATOR_S3_CHILD"
	// readyPrefix begins the line with which the child says where it listens.
	readyPrefix = "s3 listens on "
	// portAttempts bounds how often a free port may be lost to another process.
	portAttempts = 10
)

// settings is what the child is told on its standard input.
type settings struct {
	Dir    string
	Region string
	Access string
	Secret string
}

func (s settings) objects() string  { return filepath.Join(s.Dir, "objects") }
func (s settings) versions() string { return filepath.Join(s.Dir, "versions") }
func (s settings) sidecar() string  { return filepath.Join(s.Dir, "metadata") }
func (s settings) accounts() string { return filepath.Join(s.Dir, "accounts") }
func (s settings) certFile() string { return filepath.Join(s.Dir, "tls", "cert.pem") }
func (s settings) keyFile() string  { return filepath.Join(s.Dir, "tls", "key.pem") }

// Main runs a test package's tests, or the server where Start has executed
// the test binary again. It does not return.
func Main(m interface{ Run() int }) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Serve is the child: it reads its settings from in, serves, says on out when
// it listens, and returns when ctx or in ends. It is to be called once per
// process, which is to end when it returns: the server, whose directory the
// process has made its own, is not waited for, since every object that it has
// answered for is whole.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	var set settings
	if err := json.NewDecoder(in).Decode(&set); err != nil {
		return fmt.Errorf("S3 server: read the settings: %w", err)
	}
	// An interrupt from the terminal reaches the child too; the parent decides
	// when the server goes.
	signal.Ignore(os.Interrupt)

	parentGone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(parentGone)
	}()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, set, out) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return nil
	case <-parentGone:
		return nil
	}
}

// serve finds a port and serves on it.
func serve(ctx context.Context, set settings, out io.Writer) error {
	for range portAttempts {
		addr, err := freeAddress()
		if err != nil {
			return fmt.Errorf("S3 server: find a free port: %w", err)
		}
		err = serveOn(ctx, set, addr, func() { fmt.Fprintln(out, readyPrefix+addr) })
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return fmt.Errorf("S3 server: lost a free port %d times to other processes", portAttempts)
}

// freeAddress finds a loopback port that is free now. The server binds by
// itself and does not tell where, so the port must be known before.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func serveOn(ctx context.Context, set settings, addr string, listens func()) error {
	backend, err := newBackend(set)
	if err != nil {
		return fmt.Errorf("S3 server: open %s: %w", set.Dir, err)
	}
	err = embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess: set.Access,
		RootUserSecret: set.Secret,
		IAMDir:         set.accounts(), // without it an unknown account is another error than in S3
		// There is one account, and a cache without a set interval is pruned
		// without a pause, which keeps a processor busy.
		IAMCacheDisable:   true,
		Region:            set.Region,
		Ports:             []string{addr},
		CertFile:          set.certFile(),
		KeyFile:           set.keyFile(),
		MaxConnections:    4096,
		MaxRequests:       4096,
		MultipartMaxParts: 10_000,
		KeepAlive:         true,
		Quiet:             true,
		S3Options:         []s3api.Option{s3api.WithOnListen(listens)},
	})
	if err != nil {
		return fmt.Errorf("S3 server: %w", err)
	}
	return nil
}

// newBackend keeps metadata in extended attributes, which are written together
// with the object, and in files beside it where the file system has none.
func newBackend(set settings) (*posix.Posix, error) {
	opts := posix.PosixOpts{VersioningDir: set.versions()}
	opts.SetNewDirPerm(0o700)
	opts.SetNewFilePerm(0o600)
	if (meta.XattrMeta{}).Test(set.objects()) == nil {
		return posix.New(set.objects(), meta.XattrMeta{}, opts)
	}
	opts.SideCarDir = set.sidecar()
	sidecar, err := meta.NewSideCar(set.sidecar())
	if err != nil {
		return nil, err
	}
	return posix.New(set.objects(), sidecar, opts)
}
