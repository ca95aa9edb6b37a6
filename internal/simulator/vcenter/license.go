package vcenter

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// freeLicense shows the license of the free ESXi, whose API is for reading only.
func (s *Server) freeLicense() {
	if m, ok := s.model.Map().Get(*s.model.ServiceContent.LicenseManager).(*simulator.LicenseManager); ok {
		m.Licenses = []types.LicenseManagerLicenseInfo{{
			LicenseKey: "00000-00000-00000-00000-00001", EditionKey: "esxBasic", Name: "VMware vSphere Hypervisor",
			Total: 0, CostUnit: "cpuPackage",
		}}
	}
}

// restricted says whether the license forbids a method: all that change something.
func (s *Server) restricted(method string) bool {
	const changes = "CreateSnapshot_Task CreateSnapshotEx_Task RemoveAllSnapshots_Task RemoveSnapshot_Task" +
		" RevertToCurrentSnapshot_Task RevertToSnapshot_Task ConsolidateVMDisks_Task ReconfigVM_Task" +
		" PowerOnVM_Task PowerOffVM_Task ShutdownGuest"
	return s.cfg.FreeLicense && slices.Contains(strings.Fields(changes), method)
}

func restrictedVersion() SOAPFault {
	return SOAPFault{&types.RestrictedVersion{}, "Current license or ESXi version prohibits execution of the requested operation."}
}
