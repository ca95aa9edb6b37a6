package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// job is one copy by other programs.
type job struct {
	dir  string   // of its files
	file *url.URL // of the disk, with user and password
	size int64
	to   endpoint
	cpu  time.Duration // of all programs that have ended
}

// remoteImage is the object as rclone calls it: the server is in the environment.
const remoteImage = ":s3:" + bucketName + "/" + imageKey

func newJob(dir, server string, size int64, from, to endpoint) (*job, error) {
	u, err := url.Parse(from.URL)
	if err != nil {
		return nil, err
	}
	u.User = url.UserPassword(from.User, from.Password)
	u.Path, u.RawQuery = folder(server)
	j := &job{dir: dir, file: u, size: size, to: to}
	return j, errors.Join(
		os.WriteFile(j.trust(), bytes.Join([][]byte{from.CertificatePEM, to.CertificatePEM}, nil), 0o600),
		os.WriteFile(j.password(), []byte(from.Password), 0o600),
	)
}

func (j *job) trust() string    { return filepath.Join(j.dir, "trust.pem") }
func (j *job) password() string { return filepath.Join(j.dir, "password") }

func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.name, args...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// rclone is told not to read an image once more for a checksum of the whole,
// and sends eight parts at once, as the connector does segments.
func (j *job) rclone(ctx context.Context, args ...string) *exec.Cmd {
	cmd := rclone.command(ctx, append([]string{"--ca-cert", j.trust(), "--retries=1", "--s3-no-check-bucket",
		"--s3-disable-checksum", "--s3-chunk-size=16M", "--s3-upload-concurrency=8"}, args...)...)
	// What this machine keeps for its own AWS account is not for this server.
	own := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "RCLONE_") })
	cmd.Env = append(own, "RCLONE_CONFIG=", "RCLONE_S3_PROVIDER=Other", "RCLONE_S3_ENDPOINT="+j.to.URL, "RCLONE_S3_REGION="+j.to.Region,
		"RCLONE_S3_ACCESS_KEY_ID="+j.to.User, "RCLONE_S3_SECRET_ACCESS_KEY="+j.to.Password)
	return cmd
}

// serveNBD has nbdkit serve the disk while use runs.
func (j *job) serveNBD(ctx context.Context, options []string, use func(uri string) error) (err error) {
	// The socket is made here and passed on as systemd does: nobody has to
	// wait for it.
	socket := filepath.Join(j.dir, "nbd.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	passed, err := listener.File()
	if err = errors.Join(err, listener.Close()); err != nil {
		return err
	}
	args := append([]string{"-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"`, "sh", nbdkit.name, "--exit-with-parent", "--readonly"}, options...)
	plain := *j.file
	plain.User = nil
	cmd := exec.CommandContext(ctx, "sh", append(args, "curl", "url="+plain.String(),
		"user="+j.file.User.Username(), "password=+"+j.password(), "cainfo="+j.trust())...)
	var said bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr, cmd.WaitDelay = []*os.File{passed}, &said, 10*time.Second
	if err = errors.Join(cmd.Start(), passed.Close()); err != nil {
		return err
	}
	err = use("nbd+unix:///?socket=" + socket)
	if err != nil {
		err = fmt.Errorf("%w; nbdkit said: %s", err, tail(&said))
	}
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	j.cpu += processorOf(cmd)
	return err
}

// run lets programs run, each fed by the one before, until all have ended.
func (j *job) run(cmds ...*exec.Cmd) error {
	said := make([]bytes.Buffer, len(cmds))
	var pipes []*os.File
	var err error
	for i, cmd := range cmds {
		cmd.Stderr = &said[i]
		if i > 0 && err == nil {
			var r, w *os.File
			if r, w, err = os.Pipe(); err == nil {
				cmds[i-1].Stdout, cmd.Stdin = w, r
				pipes = append(pipes, r, w)
			}
		}
	}
	for _, cmd := range cmds {
		if err == nil {
			err = cmd.Start()
		}
	}
	for _, p := range pipes { // the programs have their own
		err = errors.Join(err, p.Close())
	}
	for i, cmd := range cmds {
		if cmd.Process == nil {
			continue
		}
		if ended := cmd.Wait(); ended != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w: %s", cmd.Args[0], ended, tail(&said[i])))
		}
		j.cpu += processorOf(cmd)
	}
	return err
}

// tail is the end of what a program said.
func tail(said *bytes.Buffer) string {
	text := strings.TrimSpace(said.String())
	return text[max(0, len(text)-500):]
}
