package vcenter

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Host is an ESXi host of the simulated vCenter, as a test sees it. It serves
// files at an address and under a certificate of its own.
type Host struct {
	s    *Server
	obj  *simulator.HostSystem
	ip   string        // of its management network, for clients to show; nothing listens there
	free chan struct{} // a token for each transfer that may run; nil: no limit

	// Never change once the host was started; empty where it has no listener.
	address     string
	certificate tls.Certificate

	mu      sync.Mutex
	http    *http.Server // nil while the host cannot be reached
	serving chan error
	locked  bool // in lockdown mode
}

// Hosts lists the hosts in the order of the configuration.
func (s *Server) Hosts() []*Host { return slices.Clone(s.places.hosts) }

// Host returns a host by its name, nil where there is none.
func (s *Server) Host(name string) *Host {
	for _, h := range s.places.hosts {
		if h.obj.Name == name {
			return h
		}
	}
	return nil
}

// Name is the host's name in the inventory.
func (h *Host) Name() string { return h.obj.Name }

// name is empty for the nil host, which is vCenter.
func (h *Host) name() string {
	if h == nil {
		return ""
	}
	return h.obj.Name
}

// Address is the host:port at which the host serves files; empty where hosts
// have no listeners.
func (h *Host) Address() string { return h.address }

// CertificatePEM is the host's certificate, self-signed as ESXi's own are.
func (h *Host) CertificatePEM() []byte {
	if len(h.certificate.Certificate) == 0 {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.certificate.Certificate[0]})
}

// Thumbprint is the certificate's SHA-1 in the way of sslThumbprint; empty
// where the host has no listener.
func (h *Host) Thumbprint() string {
	if len(h.certificate.Certificate) == 0 {
		return ""
	}
	cert, err := x509.ParseCertificate(h.certificate.Certificate[0])
	if err != nil {
		return ""
	}
	return soap.ThumbprintSHA1(cert)
}

// newHost takes the host into the inventory's order and gives it addresses.
func (s *Server) newHost(obj *simulator.HostSystem, n int) *Host {
	h := &Host{s: s, obj: obj, ip: fmt.Sprintf("192.0.2.%d", 11+n)} // a network for examples, RFC 5737
	if n := s.cfg.HostTransfers; n > 0 {
		h.free = make(chan struct{}, n)
		for range n {
			h.free <- struct{}{}
		}
	}
	for i := range obj.Config.Network.Vnic {
		obj.Config.Network.Vnic[i].Spec.Ip = &types.HostIpConfig{IpAddress: h.ip, SubnetMask: "255.255.255.0"}
	}
	info := &types.HostVirtualNicManagerInfo{NetConfig: managementNetwork(h.ip)}
	obj.Config.VirtualNicManagerInfo = info
	if m, ok := s.model.Map().Get(*obj.ConfigManager.VirtualNicManager).(*simulator.HostVirtualNicManager); ok {
		m.Info = *info
	}
	return h
}

// managementNetwork is where clients find a host's address: the network card
// that is selected for management.
func managementNetwork(ip string) []types.VirtualNicManagerNetConfig {
	return []types.VirtualNicManagerNetConfig{{
		NicType: string(types.HostVirtualNicManagerNicTypeManagement), MultiSelectAllowed: true,
		CandidateVnic: []types.HostVirtualNic{{
			Device: "vmk0", Key: "VirtualNic-management-vmk0", Portgroup: "Management Network",
			Spec: types.HostVirtualNicSpec{Ip: &types.HostIpConfig{IpAddress: ip, SubnetMask: "255.255.255.0"}},
		}},
		SelectedVnic: []string{"VirtualNic-management-vmk0"},
	}}
}

// start gives the host a certificate and has it serve.
func (h *Host) start() error {
	cert, err := selfSigned("")
	if err != nil {
		return err
	}
	h.certificate = cert
	h.obj.Config.Certificate = h.CertificatePEM()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listen("127.0.0.1:0")
}

// listen begins to serve. The caller holds mu.
func (h *Host) listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.obj.Name, err)
	}
	if h.address == "" {
		h.address = listener.Addr().String()
	}
	server := &http.Server{
		Handler:           h.routes(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{h.certificate}, MinVersion: tls.VersionTLS12},
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	serving := make(chan error, 1)
	h.http, h.serving = server, serving
	go func() { serving <- server.ServeTLS(listener, "", "") }()
	return nil
}

// routes is what the host serves itself.
func (h *Host) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/folder/", func(w http.ResponseWriter, r *http.Request) { h.s.serveFolder(w, r, h) })
	mux.HandleFunc("/nfc/", func(w http.ResponseWriter, r *http.Request) { h.s.serveNFC(w, r, h) })
	return h.s.counted(mux)
}

// stop ends the listener and all its connections. The caller holds mu.
func (h *Host) stop() error {
	if h.http == nil {
		return nil
	}
	err := h.http.Close()
	if end := <-h.serving; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	h.http = nil
	return err
}

func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stop()
}

// SetReachable closes the host's listener and connections, or opens it again at
// the same address: a firewall between the client and the host. vCenter goes on
// showing the host as connected.
func (h *Host) SetReachable(reachable bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.s.closing:
		return fmt.Errorf("host %s: the simulator is closed", h.obj.Name)
	default:
	}
	switch {
	case h.s.cfg.Standalone || h.address == "":
		return fmt.Errorf("host %s has no listener of its own", h.obj.Name)
	case !reachable:
		return h.stop()
	case h.http == nil:
		return h.listen(h.address)
	}
	return nil
}

// SetLockdown puts the host into lockdown mode, or takes it out: then it serves
// nobody who comes to it directly, whatever ticket they bring.
func (h *Host) SetLockdown(locked bool) {
	h.mu.Lock()
	h.locked = locked
	h.mu.Unlock()
	mode := types.HostLockdownModeLockdownDisabled
	if locked {
		mode = types.HostLockdownModeLockdownNormal
	}
	h.publish(func() {
		config := *h.obj.Config
		config.LockdownMode, config.AdminDisabled = mode, &locked
		h.obj.Config = &config
	})
}

func (h *Host) lockdown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.locked
}

// SetConnected has vCenter lose the host, or find it again: its servers go on
// running but cannot be operated, and no tickets are given for it. Its listener
// is not touched.
func (h *Host) SetConnected(connected bool) {
	state, vms := types.HostSystemConnectionStateConnected, types.VirtualMachineConnectionStateConnected
	if !connected {
		state, vms = types.HostSystemConnectionStateNotResponding, types.VirtualMachineConnectionStateDisconnected
	}
	h.publish(func() {
		h.obj.Runtime.ConnectionState = state
		runtime := h.obj.Runtime
		h.obj.Summary.Runtime = &runtime
		for _, vm := range h.s.vms {
			if vm.host == h {
				vm.connection = vms
				vm.render()
				h.s.revisions.touch(vm.obj.Self)
			}
		}
	})
}

// connected says whether vCenter has the host. The caller holds world.
func (h *Host) connected() bool {
	return h.obj.Runtime.ConnectionState == types.HostSystemConnectionStateConnected
}

// publish runs f under world and shows the host's new state to clients.
func (h *Host) publish(f func()) {
	h.s.world.Lock()
	defer h.s.world.Unlock()
	f()
	h.s.revisions.touch(h.obj.Self)
}

// mount shows which hosts have the datastore. The caller holds world, or is
// alone with the inventory.
func (s *Server) mount(ds *simulator.Datastore, spec Datastore) error {
	ds.Host = nil
	for _, name := range spec.Hosts {
		if s.Host(name) == nil {
			return fmt.Errorf("datastore %q: there is no host %q", spec.Name, name)
		}
	}
	for _, h := range s.places.hosts {
		without := slices.DeleteFunc(slices.Clone(h.obj.Datastore), func(r types.ManagedObjectReference) bool { return r == ds.Self })
		h.obj.Datastore = without
		if len(spec.Hosts) > 0 && !slices.Contains(spec.Hosts, h.obj.Name) {
			continue
		}
		h.obj.Datastore = append(without, ds.Self)
		ds.Host = append(ds.Host, types.DatastoreHostMount{Key: h.obj.Self, MountInfo: types.HostMountInfo{
			Path: ds.Summary.Url, AccessMode: string(types.HostMountModeReadWrite),
			Mounted: types.NewBool(true), Accessible: types.NewBool(true),
		}})
	}
	ds.Summary.MultipleHostAccess = types.NewBool(len(ds.Host) > 1)
	return nil
}

// mounts says whether the host has the datastore of that name.
func (h *Host) mounts(store string) bool {
	h.s.world.RLock()
	defer h.s.world.RUnlock()
	ds, ok := h.s.places.datastores[store]
	return ok && slices.Contains(h.obj.Datastore, ds.Self)
}

// hostAddress is where a client reads the bytes of the VM's disks: its host's
// own listener, or vCenter's where hosts have none. The caller holds world.
func (s *Server) hostAddress(vm *VM) string {
	if vm.host.address == "" {
		return s.URL.Host
	}
	return vm.host.address
}
