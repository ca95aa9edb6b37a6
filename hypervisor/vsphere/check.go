package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// snapshotDepth is how many snapshots may lie on top of each other.
const snapshotDepth = 31

// Check looks at one server: its state, disks, tracking, snapshots and
// storage, and what our user may do with it. How a disk's bytes travel is
// found out when a run reads them.
func (s *Source) Check(ctx context.Context, id hypervisor.ServerID) (hypervisor.Report, error) {
	v, err := s.find(ctx, id)
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check: %w", err)
	}
	in := &inspection{source: s, v: v}
	for _, read := range []func(context.Context) error{in.readState, in.readFrozen, in.readStores} {
		if err := read(ctx); err != nil {
			return hypervisor.Report{}, fmt.Errorf("check %s: %w", v.Name, err)
		}
	}
	in.look()
	if err := in.privileges(ctx); err != nil {
		return hypervisor.Report{}, fmt.Errorf("check %s: %w", v.Name, err)
	}
	return in.Report, nil
}

// inspection is a report in the making: of a server, or of the source itself.
type inspection struct {
	source *Source
	v      *vm // nil for the source; so is what follows

	more   mo.VirtualMachine             // what only a check wants to know
	frozen map[int32]hypervisor.ChangeID // of the present snapshot's disks, by key; nil without one
	stores []mo.Datastore                // those that we may see
	hidden []hypervisor.Finding          // about the others

	hypervisor.Report
}

// look judges what was read.
func (in *inspection) look() {
	in.state()
	in.protection()
	in.disks()
	in.tracking()
	in.snapshots()
	in.storage()
}

func (in *inspection) fact(subject, name, format string, args ...any) {
	in.Facts = append(in.Facts, hypervisor.Fact{Subject: subject, Name: name, Value: fmt.Sprintf(format, args...)})
}

func (in *inspection) find(f hypervisor.Finding) { in.Findings = append(in.Findings, f) }

// readState reads what only a check wants to know. Old versions do not have
// all of it, and machines that are out of reach nothing.
func (in *inspection) readState(ctx context.Context) error {
	var found []mo.VirtualMachine
	err := in.source.session.retrieve(ctx, []ref{in.v.Self}, []string{
		"runtime.faultToleranceState", "runtime.question", "guest.toolsVersion", "guest.toolsVersionStatus2",
	}, &found)
	if err != nil {
		return fmt.Errorf("read its state: %w", explain(err, in.v.Name))
	}
	if len(found) == 1 {
		in.more = found[0]
	}
	return nil
}

// state is whether vSphere can work with the machine at all.
func (in *inspection) state() {
	v := in.v
	in.fact("", "power", "%s", v.Runtime.PowerState)
	in.connection()
	in.fact("", "hardware version", "%s", v.Config.Version)
	in.tools()
	in.faultTolerance(in.more.Runtime.FaultToleranceState)
	if q := in.more.Runtime.Question; q != nil {
		in.find(hypervisor.Finding{
			Code: "vsphere-question-pending", Blocks: true, Subject: v.Name,
			What: fmt.Sprintf("the virtual machine waits for an answer and does nothing until then: %q", strings.TrimSpace(q.Text)),
			Hint: "Answer the question in vSphere",
		})
	}
	in.disabled()
}

func (in *inspection) connection() {
	v := in.v
	in.fact("", "connection", "%s", v.Runtime.ConnectionState)
	if c := v.Runtime.ConnectionState; c != "" && c != types.VirtualMachineConnectionStateConnected {
		in.find(hypervisor.Finding{
			Code: "vsphere-not-connected", Blocks: true, Subject: v.Name,
			What: fmt.Sprintf("vSphere's connection to the virtual machine is %q", c),
			Hint: "Bring its host and datastores back, or register it again",
		})
	}
}

// tools is whether the guest can be brought to rest.
func (in *inspection) tools() {
	v, running, version := in.v, "", ""
	if v.Guest != nil {
		running = v.Guest.ToolsRunningStatus
	}
	if more := in.more.Guest; more != nil && more.ToolsVersion != "" {
		version = fmt.Sprintf(", version %s (%s)", more.ToolsVersion, more.ToolsVersionStatus2)
	}
	if running == "" {
		running = "not known"
	}
	in.fact("", "VMware Tools", "%s%s", running, version)
	if v.poweredOn() && running != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		in.find(hypervisor.Finding{
			Code: "vsphere-tools-not-running", Subject: v.Name,
			What: "VMware Tools is not running in the guest: snapshots are crash-consistent, and a job that requires a quiesced one fails",
			Hint: "Install or start VMware Tools (open-vm-tools) in the guest, if its applications need to be at rest",
		})
	}
}

func (in *inspection) faultTolerance(state types.VirtualMachineFaultToleranceState) {
	if state == "" || state == types.VirtualMachineFaultToleranceStateNotConfigured {
		in.fact("", "fault tolerance", "no")
		return
	}
	in.fact("", "fault tolerance", "%s", state)
	in.find(hypervisor.Finding{
		Code: "vsphere-fault-tolerance", Subject: in.v.Name,
		What: "the virtual machine is protected by Fault Tolerance, with which vSphere may refuse snapshots and change tracking",
		Hint: "Turn Fault Tolerance off for the migration if a run fails to take its snapshot",
	})
}

// disabled tells which operations other products have disabled.
func (in *inspection) disabled() {
	v := in.v
	ours := []string{"CreateSnapshot_Task", "RemoveSnapshot_Task", "ReconfigVM_Task", "ExportSnapshot"}
	var of []string
	for _, method := range ours {
		if slices.Contains(v.DisabledMethod, method) && (method != "RemoveSnapshot_Task" || v.Snapshot != nil) {
			of = append(of, method)
		}
	}
	if len(of) == 0 {
		in.fact("", "disabled operations", "none that Skylift needs")
		return
	}
	in.fact("", "disabled operations", "%s", strings.Join(of, ", "))
	for _, method := range of {
		in.find(hypervisor.Finding{
			Code: MethodDisabled.Code, Blocks: method == "CreateSnapshot_Task" || method == "RemoveSnapshot_Task", Subject: v.Name,
			What: fmt.Sprintf("%s is disabled on the virtual machine: a backup or migration by another product is under way, or left it so", method),
			Hint: MethodDisabled.Hint,
		})
	}
}

// protection is what keeps bytes from whoever takes the disks away.
func (in *inspection) protection() {
	v := in.v
	encrypted := "no"
	if v.Config.KeyId != nil {
		encrypted = "the virtual machine"
		in.find(hypervisor.Finding{
			Code: "vsphere-encrypted", Blocks: in.source.exports == nil, Subject: v.Name,
			What: "the virtual machine is encrypted by vSphere: " + encryptedReads,
			Hint: encryptedHint,
		})
	}
	in.fact("", "encryption by vSphere", "%s", encrypted)
	tpm := "no"
	for _, device := range v.Config.Hardware.Device {
		if _, ok := device.(*types.VirtualTPM); ok {
			tpm = "yes"
			in.find(hypervisor.Finding{
				Code: "vsphere-virtual-tpm", Subject: v.Name,
				What: "the virtual machine has a virtual TPM, whose content stays behind",
				Hint: "Have the recovery key of a disk encryption that is bound to the TPM (BitLocker) at hand, or suspend it before cutover",
			})
		}
	}
	in.fact("", "virtual TPM", "%s", tpm)
}

const (
	encryptedReads = "its disks cannot be read as files or by export, but by nbdkit, where the connector has one configured"
	encryptedHint  = "Decrypt it in vSphere for the migration (its storage policy); encryption inside the guest is no hindrance"
)

// snapshots are those present, ours and others'.
func (in *inspection) snapshots() {
	v := in.v
	all := nodes(v.Snapshot)
	var foreign []string
	deepest := 0
	for _, n := range all {
		deepest = max(deepest, n.depth)
		if _, ours := in.source.runOf(n.Name); !ours {
			foreign = append(foreign, n.Name)
		}
	}
	in.fact("", "snapshots", "%d of Skylift's, %d of others; %d on top of each other, of %d allowed", len(all)-len(foreign), len(foreign), deepest, snapshotDepth)
	if deepest >= snapshotDepth {
		in.find(hypervisor.Finding{
			Code: "vsphere-snapshots-too-deep", Blocks: true, Subject: v.Name,
			What: fmt.Sprintf("%d snapshots lie on top of each other, vSphere allows no more", deepest),
			Hint: "Remove snapshots that nobody needs",
		})
	}
	if len(foreign) > 0 {
		in.find(hypervisor.Finding{
			Code: "vsphere-foreign-snapshots", Subject: v.Name,
			What: fmt.Sprintf("there are snapshots of others (%s): they are left alone, but the disks are spread over more files and read more slowly", strings.Join(foreign, ", ")),
			Hint: "Remove them if nobody needs them; a revert to one makes the next run compare everything",
		})
	}
	needed := "no"
	if v.needsConsolidation() {
		needed = "yes"
		in.find(hypervisor.Finding{
			Code: "vsphere-consolidation-needed", Subject: v.Name,
			What: "the disks need consolidation; it is done before the next snapshot is taken",
			Hint: "Nothing, unless it fails: then look for a product that holds the disk files",
		})
	}
	in.fact("", "consolidation needed", "%s", needed)
}
