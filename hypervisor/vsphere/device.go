package vsphere

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// deviceKey is the form in which vSphere names the disks of an export:
// "/vm-4681/ParaVirtualSCSIController0:1" is the disk in place 1 of the SCSI
// controller on bus 0. The API documents no form; this is what vCenter and
// ESXi hosts are seen to write, the class being the controller's in the API.
var deviceKey = regexp.MustCompile(`/([A-Za-z]+)([0-9]+):([0-9]+)$`)

// buses are the names in a virtual machine's settings for what the classes of
// controllers end in.
var buses = []struct{ class, bus string }{
	{"SCSIController", "scsi"},
	{"LsiLogicController", "scsi"},
	{"LsiLogicSASController", "scsi"},
	{"BusLogicController", "scsi"},
	{"AHCIController", "sata"},
	{"SATAController", "sata"},
	{"IDEController", "ide"},
	{"NVMEController", "nvme"},
}

// nodeOfKey is the place that a device's key tells, in the form of
// virtualDisk.node; empty for a key of another form.
func nodeOfKey(key string) string {
	m := deviceKey.FindStringSubmatch(key)
	if m == nil {
		return ""
	}
	for _, b := range buses {
		if strings.HasSuffix(m[1], b.class) {
			return fmt.Sprintf("%s%s:%s", b.bus, m[2], m[3])
		}
	}
	return ""
}

// device finds a disk among what the lease offers. Reading another disk's
// bytes would go unnoticed, so neither the order nor a size decides: only the
// place on a controller, or that there is no other disk at all, here or among
// the frozen ones.
func (l *lease) device(d virtualDisk, frozen int) (types.HttpNfcLeaseDeviceUrl, error) {
	var offered, fitting []types.HttpNfcLeaseDeviceUrl
	var keys []string
	for _, device := range l.info.DeviceUrl {
		if device.Disk != nil && !*device.Disk {
			continue
		}
		offered, keys = append(offered, device), append(keys, device.Key)
		if d.node != "" && nodeOfKey(device.Key) == d.node {
			fitting = append(fitting, device)
		}
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case len(offered) == 1 && frozen == 1 && nodeOfKey(keys[0]) == "":
		return offered[0], nil
	}
	return types.HttpNfcLeaseDeviceUrl{}, ExportUnusable.New(nil, "the export offers %q, and %d of them are the disk at %q", keys, len(fitting), d.node)
}

// address is where a device is downloaded from. A "*" stands for the host that
// the session is with (vSphere API, HttpNfcLeaseDeviceUrl).
func (l *lease) address(device types.HttpNfcLeaseDeviceUrl) (*url.URL, error) {
	session := l.session.base()
	u, err := url.Parse(device.Url)
	if err != nil || u.Host == "" || u.Scheme != session.Scheme {
		// The address is as good as a password: it is not repeated.
		return nil, ExportUnusable.New(nil, "the address that the export gives for %s is none of %s", device.Key, session.Scheme)
	}
	if u.Hostname() == "*" {
		u.Host = net.JoinHostPort(session.Hostname(), cmp.Or(u.Port(), session.Port(), "443"))
	}
	return u, nil
}
