// Package connectord puts the connector daemon together from its settings.
package connectord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/connector"
	"skylift/hypervisor/vsphere"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/transfer"
)

// Run runs the daemon until ctx ends. When file, which the settings are from,
// is changed, it loads them anew and follows what can be followed; an empty
// file is none.
func Run(ctx context.Context, c config.Connector, version, file string, load func() (config.Connector, error)) (err error) {
	log := c.Log.Logger()
	limit, err := newLimit(c, log)
	if err != nil {
		return err
	}
	defer limit.follow(ctx, file, load)()
	// Buffers are the bulk of the heap and are used again and again; the rest
	// is small. A soft limit keeps the collector from letting garbage double it.
	debug.SetMemoryLimit((c.MemoryMiB + 96) << 20)
	proxy, err := dialProxy(c.Proxy)
	if err != nil {
		return err
	}
	client, err := linkClient(c, proxy)
	if err != nil {
		return err
	}
	id, err := enrol(ctx, c, client, version, log)
	if err != nil {
		return err
	}
	mover, err := transfer.New(transfer.Config{Memory: c.MemoryMiB << 20, Parallel: c.Parallel, Bandwidth: limit.limiter, Software: "skylift " + version, Log: log})
	if err != nil {
		return err
	}
	staging, err := newStagingOpener(c, proxy, limit.limiter, log)
	if err != nil {
		return err
	}
	var sources []connector.Source
	for _, v := range c.VSphere {
		source, closeSource, err := openVSphere(ctx, c.Dir, v, proxy, id.Installation, log)
		if err != nil {
			return err
		}
		defer closeSource()
		sources = append(sources, source)
	}
	ip, mac := address(c.ControlPlane.URL)
	daemon, err := connector.New(connector.Config{
		Identity: id, URL: c.ControlPlane.URL, HTTP: client, Sources: sources, Mover: mover, Staging: staging.open,
		Version: version, Slots: c.Slots, ReportEvery: c.ReportEvery, SweepEvery: c.SweepEvery, IPAddress: ip, MACAddress: mac, Log: log,
	})
	if err != nil {
		return err
	}
	return daemon.Run(ctx)
}

func dialProxy(p config.Proxy) (dial.Proxy, error) {
	password, err := p.PasswordFile.Read()
	return dial.Proxy{URL: p.URL, User: p.User, Password: password, Except: p.Except}, err
}

func linkClient(c config.Connector, proxy dial.Proxy) (*http.Client, error) {
	ca, err := c.ControlPlane.CA()
	if err != nil {
		return nil, err
	}
	t, err := dial.NewTransport(dial.Settings{Proxy: proxy, CA: ca, Fingerprint: c.ControlPlane.Fingerprint, HTTP2: true})
	if err != nil {
		return nil, fmt.Errorf("reach the control plane: %w", err)
	}
	return t.Client(), nil
}

func enrol(ctx context.Context, c config.Connector, client *http.Client, version string, log logrus.FieldLogger) (connector.Identity, error) {
	code, err := c.ActivationCodeFile.Read()
	if errors.Is(err, fs.ErrNotExist) {
		// The code may be deleted once it was used.
		code, err = secret.Text{}, nil
	}
	if err != nil {
		return connector.Identity{}, err
	}
	name := c.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return connector.Identity{}, fmt.Errorf("find the host's name: %w", err)
		}
	}
	id, err := connector.Enrol(ctx, connector.Enrolment{Dir: c.Dir, URL: c.ControlPlane.URL, HTTP: client, Code: code, Name: name, Version: version})
	if err == nil {
		log.WithField("connector", id.Connector).Info("enrolled")
	}
	return id, err
}

// openVSphere makes a vSphere source. Its identity is asked for once and kept,
// so that a connector can start while its vSphere is down.
func openVSphere(ctx context.Context, dir string, v config.VSphere, proxy dial.Proxy, installation string, log logrus.FieldLogger) (connector.Source, func(), error) {
	fail := func(err error) (connector.Source, func(), error) {
		return connector.Source{}, nil, fmt.Errorf("set up vSphere at %s: %w", v.URL, err)
	}
	password, err := v.PasswordFile.Read()
	if err != nil {
		return fail(err)
	}
	ca, err := v.CA()
	if err != nil {
		return fail(err)
	}
	settings := dial.Settings{Proxy: proxy, CA: ca, Fingerprint: v.Fingerprint}
	if err := settings.Validate(); err != nil {
		return fail(err)
	}
	// What vCenter's certificate is pinned to says nothing about its hosts.
	hostSettings := settings
	hostSettings.Fingerprint = ""
	over := func(s dial.Settings) func(*http.Transport) {
		return func(t *http.Transport) {
			if _, err := dial.Over(t, s); err != nil {
				log.WithError(err).Error("the settings for reaching vSphere were not taken")
			}
		}
	}
	nbd, err := nbdServer(v.NBD, proxy)
	if err != nil {
		return fail(err)
	}
	source, err := vsphere.New(vsphere.Config{
		NBD: nbd, URL: v.URL, User: v.User, Password: password, Log: log,
		// Names of snapshots take letters and digits only.
		Installation: strings.ReplaceAll(installation, "-", ""),
		Customize:    over(settings), CustomizeHost: over(hostSettings),
		Limits: vsphere.Limits{Quiesce: v.QuiesceTimeout},
	})
	if err != nil {
		return fail(err)
	}
	closeSource := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := source.Close(ctx); err != nil {
			log.WithError(err).Warn("the session with vSphere was not closed cleanly")
		}
	}
	id, err := identity(ctx, filepath.Join(dir, "sources.json"), v.URL, source.Identity)
	if err != nil {
		closeSource()
		return fail(err)
	}
	return connector.Source{ID: id, Name: hostOf(v.URL), Source: source}, closeSource, nil
}

// identity returns what is kept for url, or asks and keeps it.
func identity(ctx context.Context, path, url string, ask func(context.Context) (string, error)) (string, error) {
	known := map[string]string{}
	if p, err := os.ReadFile(path); err == nil {
		// What cannot be read is asked for again.
		_ = json.Unmarshal(p, &known)
	}
	if id := known[url]; id != "" {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	id, err := ask(ctx)
	if err != nil {
		return "", err
	}
	known[url] = id
	p, err := json.Marshal(known)
	if err != nil {
		return "", err
	}
	return id, os.WriteFile(path, p, 0o600)
}
