package try

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"skylift/cmd/internal/controlplaned"
	"skylift/cmd/internal/daemon"
	"skylift/controlplane/api/smsclient"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/internal/simulator/s3"
)

// stack is the daemons of one try, each a process of its own.
type stack struct {
	options Options
	dir     string
	logs    string
	address string // of the control plane
	// planeSettings and connSettings are the daemons' settings; what is in
	// them before set-up stays.
	// sourceSettings are those of the vCenter.
	planeSettings, connSettings, sourceSettings map[string]any
	// serve runs the control plane, by default as a process of its own.
	serve func() (*process, error)

	s3      *s3.Server
	bucket  Bucket
	env     []string // of the control plane: credentials for staging
	key     controlplaned.CreatedKey
	plane   *process
	conn    *process
	api     *smsclient.Client
	stopped bool
}

// process is a daemon: this binary, executed again.
type process struct {
	name   string
	pid    int
	signal func(os.Signal) error
	done   chan struct{} // closed when it has ended, with err
	err    error
}

const stopWithin = 20 * time.Second

// newStack makes a stack whose daemons notice quickly that one of them is gone.
func newStack(o Options, dir string) *stack {
	s := &stack{options: o, dir: dir, logs: filepath.Join(dir, "logs"),
		planeSettings: map[string]any{"lease": "10s", "backoff": "1s"},
		connSettings:  map[string]any{"report-every": "500ms"}, sourceSettings: map[string]any{},
	}
	s.serve = func() (*process, error) {
		return s.execute("controlplane", s.env, append(s.options.AsControlPlane, "serve", "--config", s.settingsFile("controlplane"))...)
	}
	return s
}

// verify holds the image in folder against its block map, and returns what
// differs; "" when nothing does.
func (s *stack) verify(ctx context.Context, folder string) (string, error) {
	cmd := exec.CommandContext(ctx, s.options.Executable, "verify", "--s3", "s3://"+s.bucket.Name+"/"+s.bucket.Prefix, folder)
	cmd.Env = append(append(os.Environ(), s.env...), "AWS_REGION="+s.bucket.Region)
	if s.bucket.Endpoint != "" {
		cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL="+s.bucket.Endpoint)
	}
	if s.bucket.CAFile != "" {
		cmd.Env = append(cmd.Env, "AWS_CA_BUNDLE="+s.bucket.CAFile)
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == daemon.ExitDiffer {
		return strings.TrimSpace(string(out)), nil
	}
	if err != nil {
		return "", fmt.Errorf("verify the image in %s: %w: %s", folder, err, strings.TrimSpace(string(out)))
	}
	return "", nil
}

// start sets everything up and starts the daemons; when it fails, none is left.
func (s *stack) start(ctx context.Context, v VCenter) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := os.MkdirAll(s.logs, 0o700); err != nil {
		return err
	}
	if s.bucket, err = s.openBucket(ctx); err != nil {
		return err
	}
	if s.address, err = freeAddress(); err != nil {
		return err
	}
	if err := s.setUpControlPlane(ctx); err != nil {
		return err
	}
	if err := s.startControlPlane(ctx); err != nil {
		return err
	}
	if err := s.setUpConnector(v); err != nil {
		return err
	}
	return s.startConnector()
}

// openBucket starts the S3 server, or takes the user's bucket.
func (s *stack) openBucket(ctx context.Context) (Bucket, error) {
	if s.options.Bucket != nil {
		return *s.options.Bucket, nil
	}
	server, err := s3.Start(ctx, s3.Config{Dir: filepath.Join(s.dir, "s3"), Buckets: []string{"staging"}, Args: s.options.AsS3})
	if err != nil {
		return Bucket{}, fmt.Errorf("start the S3 server: %w", err)
	}
	s.s3 = server
	s.env = []string{"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey.Reveal(), "AWS_SESSION_TOKEN="}
	b := Bucket{Name: "staging", Region: server.Region, Endpoint: server.Endpoint, PathStyle: true, CAFile: filepath.Join(s.dir, "s3.crt")}
	return b, os.WriteFile(b.CAFile, server.CAPEM, 0o600)
}

// setUpControlPlane writes its settings and makes the keys for its users.
func (s *stack) setUpControlPlane(ctx context.Context) error {
	b := s.bucket
	maps.Copy(s.planeSettings, map[string]any{
		"dir": filepath.Join(s.dir, "controlplane"), "sealing-key-file": filepath.Join(s.dir, "sealing.key"), "listen": s.address,
		"staging": map[string]any{"bucket": b.Name, "prefix": b.Prefix, "region": b.Region, "endpoint": b.Endpoint,
			"path-style": b.PathStyle, "ca-file": b.CAFile, "share-credentials": true},
		"target": map[string]any{"local": filepath.Join(s.dir, "images")},
	})
	if err := writeYAML(s.settingsFile("controlplane"), s.planeSettings); err != nil {
		return err
	}
	key, err := s.controlPlane(ctx, "access-key", "create", "--role", "admin")
	if err != nil {
		return err
	}
	var created controlplaned.CreatedKey
	if err := json.Unmarshal(key, &created); err != nil {
		return fmt.Errorf("read the new access key: %w", err)
	}
	code, err := s.controlPlane(ctx, "activation-code")
	if err != nil {
		return err
	}
	s.key = created
	return os.WriteFile(s.codeFile(), code, 0o600)
}

// startControlPlane starts the daemon and returns when it answers.
func (s *stack) startControlPlane(ctx context.Context) (err error) {
	if s.plane, err = s.serve(); err != nil {
		return err
	}
	client, err := s.ready(ctx)
	if err != nil {
		return err
	}
	s.api, err = smsclient.New(smsclient.Config{
		Endpoint: "https://" + s.address, Region: s.bucket.Region, AccessKeyID: s.key.AccessKeyID, Secret: secret.New(s.key.SecretAccessKey), HTTP: client,
	})
	return err
}

func (s *stack) settingsFile(daemon string) string { return filepath.Join(s.dir, daemon+".yaml") }

func (s *stack) codeFile() string { return filepath.Join(s.dir, "activation.code") }

func (s *stack) certificate() string {
	return controlplaned.CertificateFile(filepath.Join(s.dir, "controlplane"))
}

// controlPlane runs a command of the control plane and returns what it prints.
func (s *stack) controlPlane(ctx context.Context, args ...string) ([]byte, error) {
	args = append(append([]string{}, s.options.AsControlPlane...), append(args, "--config", s.settingsFile("controlplane"))...)
	cmd := exec.CommandContext(ctx, s.options.Executable, args...)
	cmd.Env = append(os.Environ(), s.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("set the control plane up: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// ready waits until the control plane answers, and returns a client for it.
func (s *stack) ready(ctx context.Context) (*http.Client, error) {
	deadline := time.Now().Add(time.Minute)
	for {
		client, err := s.client()
		if err == nil {
			var r *http.Response
			if r, err = client.Get("https://" + s.address + "/healthz"); err == nil {
				return client, r.Body.Close()
			}
		}
		select {
		case <-s.plane.done:
			return nil, fmt.Errorf("the control plane ended: %w; its log is %s", s.plane.err, filepath.Join(s.logs, "controlplane.log"))
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the control plane does not answer: %w", err)
		}
	}
}

func (s *stack) client() (*http.Client, error) {
	ca, err := os.ReadFile(s.certificate())
	if err != nil {
		return nil, err
	}
	t, err := dial.NewTransport(dial.Settings{CA: ca, OnlyCA: true})
	if err != nil {
		return nil, err
	}
	return t.Client(), nil
}

func (s *stack) setUpConnector(v VCenter) error {
	maps.Copy(s.sourceSettings, map[string]any{
		"url": v.URL, "user": v.User, "password-file": v.PasswordFile, "ca-file": v.CAFile, "fingerprint": v.Fingerprint,
	})
	maps.Copy(s.connSettings, map[string]any{
		"dir": filepath.Join(s.dir, "connector"), "name": "try", "activation-code-file": s.codeFile(),
		"control-plane": map[string]any{"url": "https://" + s.address, "ca-file": s.certificate()},
		"vsphere":       []map[string]any{s.sourceSettings},
	})
	return writeYAML(s.settingsFile("connector"), s.connSettings)
}

func (s *stack) startConnector() (err error) {
	s.conn, err = s.execute("connector", nil, append(s.options.AsConn, "--config", s.settingsFile("connector"))...)
	return err
}

// execute runs a daemon that logs into a file.
func (s *stack) execute(name string, env []string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(s.logs, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(s.options.Executable, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	p := &process{name: name, pid: cmd.Process.Pid, signal: cmd.Process.Signal, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// end asks the process to end, and kills it when it does not.
func (p *process) end() error {
	if p == nil {
		return nil
	}
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("the %s did not end cleanly: %w", p.name, p.err)
		}
		return nil
	case <-time.After(stopWithin):
		_ = p.signal(os.Kill)
		<-p.done
		return fmt.Errorf("the %s did not end within %s and was killed", p.name, stopWithin)
	}
}

// stop ends all daemons, the connector first; once.
func (s *stack) stop() error {
	if s.stopped {
		return nil
	}
	s.stopped = true
	err := errors.Join(s.conn.end(), s.plane.end())
	if s.s3 != nil {
		err = errors.Join(err, s.s3.Close())
	}
	return err
}

// explain adds to err which daemon has died, for that is then the reason.
func (s *stack) explain(err error) error {
	for _, p := range []*process{s.plane, s.conn} {
		select {
		case <-p.done:
			err = fmt.Errorf("the %s has ended (%v): %w", p.name, p.err, err)
		default:
		}
	}
	return err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func writeYAML(path string, v any) error {
	p, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, p, 0o600)
}
