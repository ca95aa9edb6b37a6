// Package controlplaned puts the control plane together from its settings.
package controlplaned

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/controlplane/access"
	"skylift/controlplane/api"
	"skylift/controlplane/catalog"
	"skylift/controlplane/image"
	"skylift/controlplane/link"
	"skylift/controlplane/reconcile"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/staging"
)

// Plane is the control plane's state, opened.
type Plane struct {
	Settings config.ControlPlane
	// Images makes images of what lies in staging; by default local ones in
	// the target's directory.
	Images    func(staging.Store) (Images, error)
	Enrolment *access.Enrolment
	Keys      *access.Keys
	db        *store.DB
	log       *logrus.Logger
}

// Images makes and removes images.
type Images interface {
	replication.Builder
	replication.Retirer
}

// Open opens the state for the daemon and for commands beside it.
func Open(ctx context.Context, c config.ControlPlane) (*Plane, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, config.Invalid.New(err, "make the directory of the database")
	}
	seal, err := access.LoadSealingKey(c.SealingKeyFile)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, filepath.Join(c.Dir, "skylift.db"))
	if err != nil {
		return nil, err
	}
	p := &Plane{Settings: c, Enrolment: access.NewEnrolment(db), Keys: access.NewKeys(db, seal), db: db, log: c.Log.Logger()}
	p.Images = func(s staging.Store) (Images, error) {
		return image.NewLocal(c.Target.Local, s, image.Options{Log: p.log})
	}
	return p, nil
}

// Close closes the state.
func (p *Plane) Close() error { return p.db.Close() }

// Serve runs the daemon until ctx ends.
func (p *Plane) Serve(ctx context.Context) error {
	installation, err := access.Installation(ctx, p.db)
	if err != nil {
		return err
	}
	staging, err := openStaging(ctx, p.Settings, p.log)
	if err != nil {
		return err
	}
	builder, err := p.Images(staging.store)
	if err != nil {
		return err
	}

	var loop *reconcile.Loop
	var links *link.Service
	wake := func() {
		loop.Wake()
		links.Wake()
	}
	servers := catalog.NewService(p.db, wake)
	runs := replication.NewService(p.db, servers, replication.Options{
		Wake: wake, Limits: replication.Limits{Lease: p.Settings.Lease, Backoff: p.Settings.Backoff},
	})
	loop = reconcile.New(runs, reconcile.Options{
		Owner: "builder-" + rand.Text(), Builder: builder, Retirer: builder, Purger: &image.Purger{Store: staging.store}, Log: p.log,
	})
	links = link.New(servers, runs, p.Enrolment, link.Options{
		Installation: installation, Staging: staging.place, Credentials: staging.credentials,
		Compression: p.Settings.Staging.Compression, Log: p.log,
	})
	sms, err := api.New(api.Config{
		Keys: p.Keys, Catalog: servers, Replication: runs, PageKey: secret.New(rand.Text() + rand.Text()), Log: p.log, Now: time.Now,
	})
	if err != nil {
		return err
	}

	var working sync.WaitGroup
	defer working.Wait()
	loopCtx, stop := context.WithCancel(ctx)
	defer stop()
	working.Go(func() { loop.Run(loopCtx) })
	return p.listen(ctx, handler(sms, links.Handler()), links.Close)
}

// handler sends connectors to the link and everybody else to the SMS API.
func handler(sms, links http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/skylift.link.") {
			links.ServeHTTP(w, r)
			return
		}
		// Only here: a command stream of the link reads nothing for hours.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(30 * time.Second))
		sms.ServeHTTP(w, r)
	})
	return mux
}

// listen serves until ctx ends, and then lets calls under way end.
func (p *Plane) listen(ctx context.Context, h http.Handler, closeStreams func()) error {
	cert, err := certificate(p.Settings)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", p.Settings.Listen)
	if err != nil {
		return config.Invalid.New(err, "listen on %s", p.Settings.Listen)
	}
	server := &http.Server{
		Handler: h, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: nil,
	}
	p.log.WithFields(logrus.Fields{"address": listener.Addr().String(), "fingerprint": dial.Fingerprint(cert.Leaf)}).Info("the control plane is ready")
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	closeStreams()
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
