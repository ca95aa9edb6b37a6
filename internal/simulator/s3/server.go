package s3

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/internal/secret"
)

// startLimit bounds how long the child may take until it answers.
const startLimit = 30 * time.Second

// Config says what to serve.
type Config struct {
	// Dir is where objects, their metadata and the certificate are kept. It
	// is made when it does not exist, and can be served again later.
	Dir string
	// Access and Secret are the one account, made at random when empty. Who
	// serves a directory again gets the name that its buckets belong to.
	Access string
	Secret secret.Text
	// Region defaults to us-east-1.
	Region string
	// Buckets are created when they don't exist.
	Buckets []string
	// Args are the arguments with which this binary, executed again, calls
	// Serve. Empty in tests, whose TestMain calls Main.
	Args []string
	// Log takes what the child prints; may be nil.
	Log logrus.FieldLogger
}

// Server is a running child.
type Server struct {
	// Endpoint is the server's URL, https://127.0.0.1:<port>. Buckets are
	// part of the path, not of the host name.
	Endpoint string
	// CAPEM is the certificate to trust.
	CAPEM  []byte
	Region string

	AccessKey string
	SecretKey secret.Text

	cmd  *exec.Cmd
	hold io.Closer     // the child's standard input
	done chan struct{} // closed when the child has ended
	err  error         // how it ended; read after done
}

// Start runs a server and returns when it answers and has its buckets. ctx
// bounds the start only; Close ends the child.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	settings, caPEM, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare S3 server: %w", err)
	}
	s := &Server{
		CAPEM:     caPEM,
		Region:    settings.Region,
		AccessKey: settings.Access,
		SecretKey: secret.New(settings.Secret),
		done:      make(chan struct{}),
	}
	out := newOutput(cfg.Log)
	if err := s.launch(settings, cfg.Args, out); err != nil {
		return nil, fmt.Errorf("start S3 server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()

	select {
	case addr := <-out.ready:
		s.Endpoint = "https://" + addr
	case <-s.done:
		return nil, fmt.Errorf("start S3 server: the child ended (%v): %s", s.err, out.tail())
	case <-ctx.Done():
		return nil, fmt.Errorf("start S3 server: the child does not listen: %w", ctx.Err())
	}
	if err := s.createBuckets(ctx, cfg.Buckets); err != nil {
		return nil, err
	}
	return s, nil
}

// Done is closed when the child has ended, be it by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Close kills the child and waits for its end. Objects that were answered for stay.
func (s *Server) Close() error {
	err := s.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil { // it ends by itself when its standard input does
		err = fmt.Errorf("kill S3 server: %w", err)
	}
	closed := s.hold.Close()
	if errors.Is(closed, os.ErrClosed) {
		closed = nil
	}
	<-s.done
	return errors.Join(err, closed)
}

// prepare makes the directories and the certificate.
func prepare(cfg Config) (settings, []byte, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return settings{}, nil, err
	}
	set := settings{
		Dir:    dir,
		Region: cmp.Or(cfg.Region, "us-east-1"),
		Access: cmp.Or(cfg.Access, rand.Text()),
		Secret: cmp.Or(cfg.Secret.Reveal(), rand.Text()),
	}
	for _, sub := range []string{set.objects(), set.versions(), set.sidecar(), set.accounts(), filepath.Dir(set.certFile())} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return settings{}, nil, err
		}
	}
	if cfg.Access == "" {
		if set.Access, err = sameAccess(filepath.Join(dir, "access"), set.Access); err != nil {
			return settings{}, nil, err
		}
	}
	cert, key, err := newCertificate(time.Now())
	if err != nil {
		return settings{}, nil, err
	}
	return set, cert, errors.Join(writePrivate(set.certFile(), cert), writePrivate(set.keyFile(), key))
}

// sameAccess returns the account's name that the file holds, or the new one,
// which it then holds.
func sameAccess(path, name string) (string, error) {
	p, err := os.ReadFile(path)
	if err == nil && len(p) > 0 {
		return string(p), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return name, writePrivate(path, []byte(name))
}

// writePrivate replaces a file, so that one with looser permissions does not stay.
func writePrivate(path string, p []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, p, 0o600)
}

// launch executes this binary again and gives it its settings.
func (s *Server) launch(set settings, args []string, out *output) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s.cmd = exec.Command(exe, args...)
	s.cmd.Env = os.Environ()
	if len(args) == 0 {
		s.cmd.Env = append(s.cmd.Env, childEnv+"=1")
	}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	s.hold = stdin
	if err := s.cmd.Start(); err != nil {
		return errors.Join(err, stdin.Close())
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	// The settings are far smaller than a pipe's buffer: this does not block.
	if err := json.NewEncoder(stdin).Encode(set); err != nil {
		closed := s.Close()
		return errors.Join(fmt.Errorf("send the settings: %w: %s", err, out.tail()), closed)
	}
	return nil
}
