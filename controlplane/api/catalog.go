package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
)

// Catalog is what the API needs of the server catalog. Its problems are the
// kinds of package catalog.
type Catalog interface {
	Connectors(ctx context.Context, p catalog.Page) (list []catalog.Connector, next string, err error)
	Disassociate(ctx context.Context, connector string) error
	Import(ctx context.Context) error
	Clear(ctx context.Context) error
	Status(ctx context.Context) (s catalog.Status, lastModified time.Time, err error)
	Servers(ctx context.Context, filter []catalog.Address, p catalog.Page) (list []catalog.Server, next string, err error)
	// Server answers catalog.ServerNotFound for one that is unknown.
	Server(ctx context.Context, id string) (catalog.Server, error)
	Readiness
}

// maxAddresses bounds the filter of GetServers.
const maxAddresses = 200

func (h *Handler) getConnectors(ctx context.Context, in sms.GetConnectorsRequest) (sms.GetConnectorsResponse, error) {
	var out sms.GetConnectorsResponse
	l := h.listing(ctx, "GetConnectors", "")
	p, err := l.page(in.Page)
	if err != nil {
		return out, err
	}
	list, next, err := h.config.Catalog.Connectors(ctx, p)
	if err != nil {
		return out, err
	}
	out.ConnectorList = each(list, h.connector)
	out.NextToken = l.token(next)
	return out, nil
}

func (h *Handler) disassociateConnector(ctx context.Context, in sms.DisassociateConnectorRequest) (sms.Empty, error) {
	if err := checkID("connectorId", in.ConnectorID); err != nil {
		return nothing, err
	}
	return nothing, h.config.Catalog.Disassociate(ctx, in.ConnectorID)
}

func (h *Handler) importServerCatalog(ctx context.Context, _ sms.ImportServerCatalogRequest) (sms.Empty, error) {
	return nothing, h.config.Catalog.Import(ctx)
}

func (h *Handler) deleteServerCatalog(ctx context.Context, _ sms.DeleteServerCatalogRequest) (sms.Empty, error) {
	return nothing, h.config.Catalog.Clear(ctx)
}

func (h *Handler) getServers(ctx context.Context, in sms.GetServersRequest) (sms.GetServersResponse, error) {
	var out sms.GetServersResponse
	filter, bound, err := addresses(in.VMServerAddressList)
	if err != nil {
		return out, err
	}
	l := h.listing(ctx, "GetServers", bound)
	p, err := l.page(in.Page)
	if err != nil {
		return out, err
	}
	status, changed, err := h.config.Catalog.Status(ctx)
	if err != nil {
		return out, err
	}
	list, next, err := h.config.Catalog.Servers(ctx, filter, p)
	if err != nil {
		return out, err
	}
	out.ServerCatalogStatus, out.LastModifiedOn = string(status), sms.At(changed)
	out.ServerList = each(list, server)
	out.NextToken = l.token(next)
	return out, nil
}

// addresses returns the filter, and the text that binds page tokens to it.
func addresses(in []sms.VMServerAddress) ([]catalog.Address, string, error) {
	if len(in) > maxAddresses {
		return nil, "", invalid("vmServerAddressList must have at most %d entries", maxAddresses)
	}
	filter := make([]catalog.Address, 0, len(in))
	for i, a := range in {
		for _, m := range []struct{ name, value string }{{"vmManagerId", a.VMManagerID}, {"vmId", a.VMID}} {
			if m.value == "" {
				return nil, "", missing("the request lacks vmServerAddressList[%d].%s", i, m.name)
			}
		}
		filter = append(filter, catalog.Address{Manager: a.VMManagerID, VM: a.VMID})
	}
	if len(filter) == 0 {
		return nil, "", nil
	}
	bound, err := json.Marshal(filter)
	if err != nil {
		return nil, "", fmt.Errorf("encode the filter: %w", err)
	}
	return filter, string(bound), nil
}

func (h *Handler) connector(c catalog.Connector) sms.Connector {
	out := sms.Connector{
		ConnectorID:    c.ID,
		Version:        c.Version,
		Status:         "UNHEALTHY",
		CapabilityList: capabilities(c.Sources),
		IPAddress:      c.IPAddress,
		MACAddress:     c.MACAddress,
		AssociatedOn:   sms.At(c.AssociatedOn),
		Name:           c.Name,
		LastSeen:       sms.At(c.LastSeen),
		Sources:        each(c.Sources, connectorSource),
	}
	if c.Healthy(h.config.Now()) {
		out.Status = "HEALTHY"
	}
	if len(c.Sources) > 0 {
		first := c.Sources[0]
		out.VMManagerID, out.VMManagerName, out.VMManagerType = first.ID, first.Name, managerType(first.Platform)
	}
	return out
}

func connectorSource(s catalog.Source) sms.ConnectorSource {
	return sms.ConnectorSource{SourceID: s.ID, Platform: s.Platform, Name: s.Name}
}

// capabilities are the kinds of managers that the connector reaches, and that
// it freezes several servers at one moment.
func capabilities(sources []catalog.Source) []string {
	list := []string{"SNAPSHOT_BATCHING"}
	for _, s := range sources {
		if t := managerType(s.Platform); t != "" && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	slices.Sort(list)
	return list
}

// managerType is the model's word for a platform; it has none for Azure.
func managerType(platform string) string {
	switch platform {
	case "vsphere":
		return "VSPHERE"
	case "scvmm":
		return "SCVMM"
	case "hyperv":
		return "HYPERV-MANAGER"
	}
	return ""
}

const serverType = "VIRTUAL_MACHINE" // the only one there is

func server(s catalog.Server) sms.Server {
	out := sms.Server{
		ServerID:         s.ID,
		ServerType:       serverType,
		VMServer:         vmServer(s),
		ReplicationJobID: s.JobID,
		PoweredOn:        s.PoweredOn,
		GuestOS:          s.GuestOS,
		Firmware:         s.Firmware,
		Gone:             s.Gone,
		Disks: each(s.Disks, func(d catalog.Disk) sms.ServerDisk {
			return sms.ServerDisk{DiskID: d.ID, Name: d.Name, SizeBytes: d.Size, SkipReason: d.Skip}
		}),
	}
	if s.JobID != "" {
		out.ReplicationJobTerminated = &s.JobTerminated
	}
	return out
}

// vmServer shows the manager's reference as the VM's ID, as SMS did, where
// there is one.
func vmServer(s catalog.Server) sms.VMServer {
	id := s.ManagerID
	if id == "" {
		id = s.VM
	}
	return sms.VMServer{
		VMServerAddress: sms.VMServerAddress{VMManagerID: s.Source.ID, VMID: id},
		VMName:          s.Name,
		VMManagerName:   s.Source.Name,
		VMManagerType:   managerType(s.Source.Platform),
		VMPath:          s.Path,
		Platform:        s.Source.Platform,
	}
}

// each maps a list; the result is never nil, so that it encodes as a list.
func each[A, B any](list []A, f func(A) B) []B {
	out := make([]B, len(list))
	for i, a := range list {
		out[i] = f(a)
	}
	return out
}
