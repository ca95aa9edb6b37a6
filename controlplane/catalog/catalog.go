// Package catalog knows the connectors, their sources and the servers found there.
//
// Connectors report; the catalog never asks a source. What a connector reports
// in one full listing replaces what was known of that source when the listing
// ends, so a listing that breaks off changes nothing that was there.
package catalog

import "time"

// Status is the state of the server catalog as a whole, in the SMS API's words.
type Status string

// The states of the catalog.
const (
	NotImported Status = "NOT_IMPORTED"
	Importing   Status = "IMPORTING"
	Available   Status = "AVAILABLE"
	Deleted     Status = "DELETED"
	Expired     Status = "EXPIRED"
)

// Connector is one enrolled connector.
type Connector struct {
	ID           string // "c-" and hex digits
	Name         string // its host name, for people
	PublicKey    []byte // Ed25519
	Version      string
	IPAddress    string
	MACAddress   string
	AssociatedOn time.Time
	LastSeen     time.Time // its last authenticated call
	Sources      []Source
}

// Alive is how long after its last call a connector still counts as connected.
const Alive = 2 * time.Minute

// Healthy reports whether the connector was heard of lately.
func (c Connector) Healthy(now time.Time) bool { return now.Sub(c.LastSeen) < Alive }

// Source is one place that servers live in, reached through connectors.
type Source struct {
	ID       string // stable, from the manager's own identity
	Platform string // vsphere, hyperv, scvmm, azure
	Name     string // the manager's address, for people
}

// Server is one server of the catalog.
type Server struct {
	ID         string // "s-" and hex digits: ours, stable as long as the server is known
	Source     Source
	VM         string // the source's own server ID
	ManagerID  string // the manager's reference: vSphere's "vm-42"
	Name       string
	Path       string
	PoweredOn  bool
	GuestOS    string
	Firmware   string
	SecureBoot bool
	TPM        bool
	CPUs       int
	MemoryMiB  int64
	Host       string
	Disks      []Disk
	NICs       []NIC
	Gone       bool // no longer on its source; kept while a job refers to it
	// JobID is the server's replication job; JobTerminated says that it ended.
	JobID         string
	JobTerminated bool
}

// Disk is a server's disk as the inventory shows it.
type Disk struct {
	ID   string
	Name string
	Size int64  // bytes
	Skip string // why it cannot be replicated; empty for one that can
}

// NIC is a server's virtual network card.
type NIC struct{ Name, MAC, Network string }
