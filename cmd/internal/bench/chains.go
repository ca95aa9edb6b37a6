package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// chain is how other programs bring a disk into S3. Each is given the settings
// with which it was fastest.
type chain struct {
	name  string
	needs []program
	copy  func(context.Context, *job) error
}

// program is a command, Debian's package that brings it, and what makes it
// tell its version.
type program struct{ name, debian, version string }

var (
	nbdkit  = program{"nbdkit", "nbdkit", "--version"}
	nbdcopy = program{"nbdcopy", "libnbd-bin", "--version"}
	qemuImg = program{"qemu-img", "qemu-utils", "--version"}
	rclone  = program{"rclone", "rclone", "version"}
)

var chains = []chain{
	{"nbdkit curl, nbdcopy | rclone rcat", []program{nbdkit, nbdcopy, rclone}, streamNBD},
	{"nbdkit curl, nbdcopy, rclone copyto", []program{nbdkit, nbdcopy, rclone}, copyNBD},
	{"nbdkit readahead curl, qemu-img, rclone copyto", []program{nbdkit, qemuImg, rclone}, convertNBD},
	{"rclone copyurl", []program{rclone}, copyURL},
	{"rclone copyurl in one PUT (5 GiB at most)", []program{rclone}, putURL},
}

// imageKey is the object that a chain writes.
const imageKey = "image"

// streamNBD reads with one request at a time: there is no other way to fill a
// pipe. Large ones make up for some of that.
func streamNBD(ctx context.Context, j *job) error {
	return j.serveNBD(ctx, nil, func(uri string) error {
		return j.run(
			nbdcopy.command(ctx, "--request-size=33554432", uri, "-"),
			j.rclone(ctx, "rcat", fmt.Sprintf("--size=%d", j.size), remoteImage),
		)
	})
}

// copyNBD reads over several connections, since nbdkit's curl plugin answers
// one request at a time on each, and keeps the image in a file.
func copyNBD(ctx context.Context, j *job) error {
	image := filepath.Join(j.dir, "image.raw")
	return j.serveNBD(ctx, nil, func(uri string) error {
		if err := j.run(nbdcopy.command(ctx, "--connections=8", "--threads=8", "--request-size=4194304", uri, image)); err != nil {
			return err
		}
		return j.run(j.rclone(ctx, "copyto", image, remoteImage))
	})
}

func convertNBD(ctx context.Context, j *job) error {
	image := filepath.Join(j.dir, "image.raw")
	return j.serveNBD(ctx, []string{"--filter=readahead"}, func(uri string) error {
		if err := j.run(qemuImg.command(ctx, "convert", "-m", "16", "-W", "-f", "raw", "-O", "raw", uri, image)); err != nil {
			return err
		}
		return j.run(j.rclone(ctx, "copyto", image, remoteImage))
	})
}

// copyURL reads the file as one answer and stores it in parallel.
func copyURL(ctx context.Context, j *job) error {
	return j.run(j.rclone(ctx, "copyurl", j.file.String(), remoteImage))
}

// putURL sends the file as one object without parts, which costs rclone and
// the server fewer checksums. S3 takes up to 5 GiB so.
func putURL(ctx context.Context, j *job) error {
	return j.run(j.rclone(ctx, "--s3-upload-cutoff=5G", "copyurl", j.file.String(), remoteImage))
}

// missing says what has to be installed for the chain; empty if nothing.
func (c chain) missing(ctx context.Context) string {
	var packages []string
	for _, p := range c.needs {
		if _, err := exec.LookPath(p.name); err != nil {
			packages = append(packages, p.debian)
		}
	}
	if len(packages) > 0 {
		return "to be installed: " + strings.Join(packages, ", ")
	}
	if c.needs[0] == nbdkit {
		// Some systems have the plugin, or the filter, in packages of their own.
		if err := nbdkit.command(ctx, "--filter=readahead", "curl", "--dump-plugin").Run(); err != nil {
			return "to be installed: nbdkit's curl plugin and readahead filter"
		}
	}
	return ""
}

// versions are the first lines of what the programs that are there say of
// themselves.
func versions(ctx context.Context) (list []string) {
	for _, p := range []program{nbdkit, nbdcopy, qemuImg, rclone} {
		if text, err := p.command(ctx, p.version).Output(); err == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			list = append(list, line)
		}
	}
	return list
}
