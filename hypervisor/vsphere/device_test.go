package vsphere

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

func offer(url string, keys ...string) *lease {
	l := &lease{}
	for _, key := range keys {
		disk := !strings.HasSuffix(key, "nvram") && !strings.HasSuffix(key, "(cd)")
		l.info.DeviceUrl = append(l.info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{Key: strings.TrimSuffix(key, "(cd)"), Url: url + key, Disk: &disk})
	}
	return l
}

func TestADiskIsFoundInAnExportByItsPlaceAlone(t *testing.T) {
	const first, second = "/vm-42/ParaVirtualSCSIController0:0", "/vm-42/ParaVirtualSCSIController0:1"
	for _, c := range []struct {
		name   string
		node   string
		frozen int
		keys   []string
		want   string // key; empty for a refusal
	}{
		{"the first of two", "scsi0:0", 2, []string{first, second}, first},
		{"in another order", "scsi0:1", 2, []string{second, first}, second},
		{"on another SCSI controller", "scsi1:0", 2, []string{"/vm-42/VirtualLsiLogicController0:0", "/vm-42/VirtualLsiLogicSASController1:0"}, "/vm-42/VirtualLsiLogicSASController1:0"},
		{"SCSI of BusLogic", "scsi0:3", 1, []string{"/vm-42/VirtualBusLogicController0:3"}, "/vm-42/VirtualBusLogicController0:3"},
		{"SATA", "sata0:1", 2, []string{first, "/vm-42/VirtualAHCIController0:1"}, "/vm-42/VirtualAHCIController0:1"},
		{"IDE", "ide1:0", 1, []string{"/vm-42/VirtualIDEController1:0"}, "/vm-42/VirtualIDEController1:0"},
		{"NVMe beside SCSI", "nvme0:0", 2, []string{first, "/vm-42/VirtualNVMEController0:0"}, "/vm-42/VirtualNVMEController0:0"},
		{"of a host itself", "scsi0:0", 1, []string{"/8/VirtualLsiLogicController0:0"}, "/8/VirtualLsiLogicController0:0"},
		{"two digits", "scsi0:12", 2, []string{"/vm-42/ParaVirtualSCSIController0:1", "/vm-42/ParaVirtualSCSIController0:12"}, "/vm-42/ParaVirtualSCSIController0:12"},
		{"beside the firmware's memory", "scsi0:0", 1, []string{"/vm-42/nvram", first}, first},
		{"a CD in its place", "ide1:0", 1, []string{"/vm-42/VirtualIDEController1:0(cd)"}, ""},
		{"the only one, named in another way", "scsi0:0", 1, []string{"/vm-42/disk-0"}, "/vm-42/disk-0"},
		{"the only one offered, but not the only one frozen", "scsi0:0", 2, []string{"/vm-42/disk-0"}, ""},
		{"the only one, in another place", "scsi0:0", 1, []string{second}, ""},
		{"two named in another way", "scsi0:0", 2, []string{"/vm-42/disk-0", "/vm-42/disk-1"}, ""},
		{"two of the same place", "scsi0:0", 2, []string{first, "/vm-42/VirtualLsiLogicController0:0"}, ""},
		{"a controller that is not known", "", 2, []string{first, second}, ""},
		{"nothing offered", "scsi0:0", 1, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			device, err := offer("https://esx-1/nfc/", c.keys...).device(virtualDisk{node: c.node}, c.frozen)
			if device.Key != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v", device.Key, err)
			}
		})
	}
}

func TestAnExportsAddressIsCompletedAndKept(t *testing.T) {
	for _, c := range []struct{ session, told, want string }{
		{"https://vcenter/sdk", "https://esx-1/nfc/52/disk-0.vmdk", "https://esx-1/nfc/52/disk-0.vmdk"},
		{"https://esx-1/sdk", "https://*/ha-nfc/52/disk-0.vmdk", "https://esx-1:443/ha-nfc/52/disk-0.vmdk"},
		{"https://esx-1/sdk", "https://*:902/nfc", "https://esx-1:902/nfc"},
		{"https://127.0.0.1:8443/sdk", "https://*/nfc", "https://127.0.0.1:8443/nfc"},
		{"https://[fd00::1]/sdk", "https://*/nfc", "https://[fd00::1]:443/nfc"},
		{"https://vcenter/sdk", "http://esx-1/nfc/secret", ""}, // would be read along
		{"https://vcenter/sdk", "/nfc/secret", ""},
		{"https://vcenter/sdk", "https://esx 1/nfc/secret", ""},
	} {
		t.Run(c.told, func(t *testing.T) {
			l := &lease{session: trusting(t, func(config *Config) { config.URL = c.session }).session}
			u, err := l.address(types.HttpNfcLeaseDeviceUrl{Key: "disk", Url: c.told})
			switch {
			case c.want == "" && (err == nil || strings.Contains(err.Error(), "secret")):
				t.Errorf("got %v, %v", u, err)
			case c.want != "" && (err != nil || u.String() != c.want):
				t.Errorf("got %v, %v", u, err)
			}
		})
	}
}

func FuzzDeviceKey(f *testing.F) {
	f.Add("/vm-4681/ParaVirtualSCSIController0:1")
	f.Add("/8/VirtualNVMEController1:12")
	f.Add("/vm-1/nvram")
	f.Fuzz(func(t *testing.T, key string) {
		node := nodeOfKey(key)
		if node == "" {
			return
		}
		if _, place, _ := strings.Cut(node, ":"); !strings.HasSuffix(key, ":"+place) {
			t.Errorf("%q is said to be at %q", key, node)
		}
	})
}
