package vcenter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Server is a running vCenter.
type Server struct {
	// URL is where clients connect: https://127.0.0.1:port/sdk, without user.
	URL *url.URL
	// CertificatePEM is what clients must trust.
	CertificatePEM []byte
	User, Password string

	cfg     Config
	log     logrus.FieldLogger
	dir     string // files of disk contents
	model   *simulator.Model
	service *simulator.Service
	http    *http.Server
	serving chan error
	closing chan struct{}
	closed  sync.Once
	closeOK error

	// world guards every managed object and the structs behind them. SOAP
	// calls hold it for reading from their first look at an object to the
	// last byte of their answer, everything that changes an object holds it
	// for writing. Order: VM.op, world, volumes.
	world  sync.RWMutex
	vms    map[types.ManagedObjectReference]*VM
	dirs   map[string]*VM // by the folder of its files
	denied []denial
	leases map[string]*lease // by their ticket
	ended  []*lease          // some of them, the oldest first
	next   atomic.Int64      // counts references given out
	recent []*task
	places places

	revisions revisions
	sessions  sessions
	tickets   tickets
	slowness  slowness
	record    record
	served    atomic.Int64 // bytes of files
	buffers   *sync.Pool

	gate    sync.Mutex
	stopped bool
	running sync.WaitGroup // requests and tasks
}

// Start runs a vCenter until Close.
func Start(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{
		User: cfg.User, Password: cfg.Password, cfg: cfg, log: cfg.Log,
		serving: make(chan error, 1), closing: make(chan struct{}),
		vms: map[types.ManagedObjectReference]*VM{}, dirs: map[string]*VM{}, leases: map[string]*lease{}, revisions: newRevisions(),
		denied: parseDenials(cfg.Denied), slowness: slowness{Latency: cfg.Latency},
		tickets:  tickets{how: cfg.Tickets, open: map[string]ticket{}, sessions: map[string]*Host{}},
		sessions: newSessions(cfg), record: newRecord(), buffers: newBuffers(),
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("start vCenter simulator: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Server) start() error {
	if err := s.cfg.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vcenter-*")
	if err != nil {
		return err
	}
	s.dir = dir
	tlsConfig, err := s.certificate()
	if err != nil {
		return err
	}
	if err := s.createInventory(); err != nil {
		return err
	}
	for _, spec := range s.cfg.Servers {
		if _, err := s.AddServer(spec); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", s.cfg.Address)
	if err != nil {
		return err
	}
	s.URL = &url.URL{Scheme: "https", Host: listener.Addr().String(), Path: s.model.Map().Path}
	s.http = &http.Server{
		Handler:           s.routes(),
		TLSConfig:         tlsConfig,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1, as ESXi
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that give up are what tests are about
	}
	go func() { s.serving <- s.http.ServeTLS(listener, "", "") }()
	return s.startHosts()
}

// startHosts has the hosts serve; a standalone host is what serves already.
func (s *Server) startHosts() error {
	if s.cfg.Standalone {
		h := s.places.hosts[0]
		h.address, h.certificate = s.URL.Host, s.http.TLSConfig.Certificates[0]
		h.obj.Config.Certificate = s.CertificatePEM
		return nil
	}
	for _, h := range s.places.hosts {
		if s.cfg.NoHostListeners {
			break
		}
		if err := h.start(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all sessions and connections, waits for running tasks, and removes
// what the simulator kept in temporary files. Snapshot events that were not
// released can no longer be read.
func (s *Server) Close() error {
	s.closed.Do(func() { s.closeOK = s.close() })
	return s.closeOK
}

func (s *Server) close() error {
	var errs []error
	close(s.closing)
	s.gate.Lock()
	s.stopped = true
	s.gate.Unlock()
	if s.http != nil {
		errs = append(errs, s.http.Close())
		if err := <-s.serving; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	for _, h := range s.places.hosts {
		errs = append(errs, h.close())
	}
	s.running.Wait()
	s.world.Lock()
	defer s.world.Unlock()
	for _, vm := range s.vms {
		errs = append(errs, vm.retire(true))
	}
	if s.model != nil {
		s.model.Remove()
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// enter counts a request that Close must wait for; false when it is too late.
func (s *Server) enter() bool {
	s.gate.Lock()
	defer s.gate.Unlock()
	if !s.stopped {
		s.running.Add(1)
	}
	return !s.stopped
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(s.URL.Path, s.serveSDK)
	mux.HandleFunc(s.URL.Path+"/vimServiceVersions.xml", s.service.ServiceVersions)
	mux.HandleFunc("/folder/", func(w http.ResponseWriter, r *http.Request) { s.serveFolder(w, r, nil) })
	mux.HandleFunc("/nfc/", func(w http.ResponseWriter, r *http.Request) { s.serveNFC(w, r, nil) })
	return s.counted(mux)
}

// counted refuses what mux has no place for, and has Close wait for requests.
func (s *Server) counted(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse("%s %s: nothing is served there", r.Method, r.URL.Path)
		http.NotFound(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.running.Done()
		mux.ServeHTTP(w, r)
	})
}

// context makes a simulator context: it also names who holds an object's lock.
func (s *Server) context() *simulator.Context {
	return &simulator.Context{Context: context.Background(), Map: s.model.Map()}
}
