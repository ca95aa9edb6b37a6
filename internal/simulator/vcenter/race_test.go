package vcenter

import (
	"fmt"
	"sync"
	"testing"

	views "github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
)

// TestEverythingAtOnce is for the race detector: clients list, watch, snapshot
// and read while owners add, remove and rename, and guests write.
func TestEverythingAtOnce(t *testing.T) {
	const rounds = 8
	s := start(t, one(DiskSpec{Size: mib}, DiskSpec{Size: mib, Content: Sparse()}))
	c, vm := login(t, s), s.VM("web")
	w := watch(t, c, narrow())
	w.all(t)
	var wg sync.WaitGroup
	each := func(f func(n int) error) {
		wg.Go(func() {
			for n := range rounds {
				if err := f(n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	each(func(n int) error {
		name := fmt.Sprint("new-", n)
		if _, err := s.AddServer(ServerSpec{Name: name, Folder: name, Disks: []DiskSpec{{Size: mib, Content: Sparse()}}}); err != nil {
			return err
		}
		return s.RemoveServer(name)
	})
	each(func(n int) error { return vm.Rename(fmt.Sprint("web-", n)) })
	each(func(n int) error {
		d, err := vm.AddDisk(DiskSpec{Size: mib})
		if err != nil {
			return err
		}
		return d.Remove()
	})
	each(func(n int) error {
		v, err := views.NewManager(c.Client).CreateContainerView(t.Context(), c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
		if err != nil {
			return err
		}
		var list []mo.VirtualMachine
		if err := v.Retrieve(t.Context(), []string{"VirtualMachine"}, []string{"name", "config", "snapshot"}, &list); err != nil {
			return err
		}
		return v.Destroy(t.Context())
	})
	each(func(n int) error {
		task, err := machineOf(c, vm).CreateSnapshot(t.Context(), fmt.Sprint(n), "", false, false)
		if err != nil {
			return err
		}
		if err := task.Wait(t.Context()); err != nil {
			return err
		}
		if status, _, _ := get(t, s, "web/web_1-flat.vmdk", "", nil); status != 200 {
			return fmt.Errorf("status %d", status)
		}
		task, err = machineOf(c, vm).RemoveSnapshot(t.Context(), fmt.Sprint(n), false, nil)
		if err != nil {
			return err
		}
		return task.Wait(t.Context())
	})
	for i, d := range vm.Disks() {
		each(func(n int) error {
			_, err := d.WriteAt(noise(uint64(n+i), mib/2), int64(n)*1000)
			return err
		})
	}
	wg.Wait()
	for said := []string{""}; said != nil; {
		said, _ = w.next(t, new(int32))
	}
	if len(w.servers) != 1 || w.servers[vm.Reference()]["name"] != vm.Name() {
		t.Errorf("in the end the watcher knows %d servers, %v", len(w.servers), w.servers[vm.Reference()]["name"])
	}
	if r, open := s.Refused(), s.OpenSnapshots(); len(r)+len(open) > 0 {
		t.Errorf("refused %v, open snapshots %v", r, open)
	}
}
