package vcenter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func frozenServer(t testing.TB, data []byte) (*Server, *VM) {
	s := start(t, one(DiskSpec{Size: int64(len(data))}))
	put(t, s.VM("web").Disk(0), 0, data)
	snapshotNow(t, login(t, s), s.VM("web"), "s")
	return s, s.VM("web")
}

func TestFilesAreServedOnlyToThoseWhoMayReadThem(t *testing.T) {
	s, _ := frozenServer(t, noise(1, mib))
	c := login(t, s)
	cookie := func(r *http.Request) {
		for _, k := range c.Jar.Cookies(s.URL) {
			r.AddCookie(k)
		}
	}
	const file = "web/web-flat.vmdk"
	for _, test := range []struct {
		name string
		auth func(*http.Request)
		want int
	}{
		{"nobody", func(*http.Request) {}, 401},
		{"a wrong password", func(r *http.Request) { r.SetBasicAuth(s.User, "x") }, 401},
		{"a wrong user", func(r *http.Request) { r.SetBasicAuth("x", s.Password) }, 401},
		{"an invented session", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: soap.SessionCookieName, Value: "x"}) }, 401},
		{"the password", nil, 206},
		{"a session", cookie, 206},
	} {
		if status, _, _ := get(t, s, file, "bytes=0-0", test.auth); status != test.want {
			t.Errorf("%s: status %d, want %d", test.name, status, test.want)
		}
	}
	s.ExpireSessions()
	if status, _, h := get(t, s, file, "bytes=0-0", cookie); status != 401 || h.Get("WWW-Authenticate") == "" {
		t.Errorf("an expired session: status %d", status)
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}

func TestRangesOfFrozenFiles(t *testing.T) {
	data := noise(1, 3*mib+512)
	s, _ := frozenServer(t, data)
	if get(t, s, "web/web-flat.vmdk", "bytes=0-99", nil); s.Served() != 100 {
		t.Errorf("100 bytes were asked for, %d count as served", s.Served())
	}
	size := len(data)
	for _, test := range []struct {
		rang     string
		from, to int // of data
		status   int
	}{
		{"", 0, size, 200},
		{"bytes=0-", 0, size, 206},
		{"bytes=5-9", 5, 10, 206},
		{"bytes=65535-2097153", 65535, 2097154, 206},
		{fmt.Sprintf("bytes=%d-", size-1), size - 1, size, 206},
		{"bytes=100-99999999999", 100, size, 206},
		{"bytes=-7", size - 7, size, 206},
		{"bytes=-99999999999", 0, size, 206},
		{fmt.Sprintf("bytes=%d-", size), 0, 0, 416},
		{"bytes=9-5", 0, 0, 416},
		{"bytes=0-1,4-5", 0, 0, 416},
		{"bytes=-0", 0, 0, 416},
		{"bytes=x-5", 0, 0, 416},
		{"lines=0-1", 0, 0, 416},
	} {
		status, body, h := get(t, s, "web/web-flat.vmdk", test.rang, nil)
		if status != test.status {
			t.Errorf("%q: status %d, want %d", test.rang, status, test.status)
			continue
		}
		if status == 416 {
			if h.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
				t.Errorf("%q: Content-Range %q", test.rang, h.Get("Content-Range"))
			}
			continue
		}
		if !bytes.Equal(body, data[test.from:test.to]) {
			t.Errorf("%q: the bytes differ", test.rang)
		}
		if want := fmt.Sprintf("bytes %d-%d/%d", test.from, test.to-1, size); status == 206 && h.Get("Content-Range") != want {
			t.Errorf("%q: Content-Range %q, want %q", test.rang, h.Get("Content-Range"), want)
		}
	}
	if n := len(s.Refused()); n != 6 {
		t.Errorf("%d ranges were refused: %v", n, s.Refused())
	}
}

func TestTheClientsOwnWayToAFile(t *testing.T) {
	data := noise(1, 2*mib)
	s, _ := frozenServer(t, data)
	c := login(t, s)
	finder := object.NewSearchIndex(c.Client)
	dc, err := finder.FindByInventoryPath(t.Context(), "/DC0")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := dc.(*object.Datacenter).Folders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stores, err := folders.DatastoreFolder.Children(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ds := stores[0].(*object.Datastore)
	if err := ds.FindInventoryPath(t.Context()); err != nil {
		t.Fatal(err)
	}
	body, _, err := ds.Download(t.Context(), "web/web-flat.vmdk", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file differs: %v", err)
	}
}

func TestTheDescriptorDescribesTheFile(t *testing.T) {
	s, _ := frozenServer(t, noise(1, mib))
	status, body, _ := get(t, s, "web/web.vmdk", "", nil)
	text := string(body)
	for _, line := range []string{
		`createType="vmfs"`, `parentCID=ffffffff`, `RW 2048 VMFS "web-flat.vmdk"`,
		`changeTrackPath="web-ctk.vmdk"`, `ddb.adapterType = "lsilogic"`,
	} {
		if status != 200 || !strings.Contains(text, line+"\n") {
			t.Errorf("status %d; the descriptor lacks %q:\n%s", status, line, text)
		}
	}
	cid, _, _ := strings.Cut(text[strings.Index(text, "\nCID=")+5:], "\n")
	_, delta, _ := get(t, s, "web/web-000001.vmdk", "", nil)
	for _, line := range []string{`createType="seSparse"`, "parentCID=" + cid, `parentFileNameHint="web.vmdk"`, `RW 2048 SESPARSE "web-000001-sesparse.vmdk"`} {
		if !strings.Contains(string(delta), line+"\n") {
			t.Errorf("the delta's descriptor lacks %q:\n%s", line, delta)
		}
	}
}

func TestWhatIsNoFrozenFileIsRefusedLoudly(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{
		{Name: "on", Disks: []DiskSpec{{Size: mib}}},
		{Name: "off", Power: types.VirtualMachinePowerStatePoweredOff, Disks: []DiskSpec{{Size: mib}}},
		{Name: "locked", Quirks: Quirks{FlatLocked: true}, Disks: []DiskSpec{{Size: mib}}},
		{Name: "raw", Disks: []DiskSpec{{Size: mib, RDM: "virtualMode"}}},
	}})
	c := login(t, s)
	snapshotNow(t, c, s.VM("locked"), "s")
	snapshotNow(t, c, s.VM("raw"), "s")
	put(t, s.VM("off").Disk(0), 0, []byte("still"))
	if status, body, _ := get(t, s, "off/off-flat.vmdk", "bytes=0-4", nil); status != 206 || string(body) != "still" {
		t.Errorf("the disk of a server that is off: status %d, %q", status, body)
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
	for i, test := range []struct {
		file string
		want int
	}{
		{"on/on-flat.vmdk", 403},
		{"locked/locked-flat.vmdk", 403},
		{"locked/locked-000001-sesparse.vmdk", 403},
		{"raw/raw-flat.vmdk", 404},
		{"on/on.vmx", 404},
		{"on/", 404},
		{"nothing/nothing.vmdk", 404},
		{"", 404},
	} {
		if status, _, _ := get(t, s, test.file, "", nil); status != test.want || len(s.Refused()) != i+1 {
			t.Errorf("%s: status %d, want %d; refused: %v", test.file, status, test.want, s.Refused())
		}
	}
	before := len(s.Refused())
	client := http.Client{Transport: soapClient(t, s).DefaultTransport()}
	for _, req := range []struct{ method, path string }{
		{"PUT", "/folder/on/on.vmdk?dcPath=DC0&dsName=datastore1"}, {"DELETE", "/folder/on/on.vmdk?dcPath=DC0&dsName=datastore1"},
		{"GET", "/folder/on/on.vmdk?dcPath=DC1&dsName=datastore1"}, {"GET", "/folder/on/on.vmdk?dcPath=DC0&dsName=x"},
		{"GET", "/nfc/1/disk.vmdk"}, {"GET", "/ui/"}, {"GET", "/sdk"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), req.method, "https://"+s.URL.Host+req.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(s.User, s.Password)
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
		if res.StatusCode < 400 {
			t.Errorf("%s %s: status %d", req.method, req.path, res.StatusCode)
		}
	}
	if n := len(s.Refused()) - before; n != 7 {
		t.Errorf("%d of 7 were recorded: %v", n, s.Refused()[before:])
	}
	client.CloseIdleConnections()
}

func TestHeadTellsTheSize(t *testing.T) {
	s, _ := frozenServer(t, noise(1, mib))
	u := object.NewDatastoreURL(*s.URL, "DC0", "datastore1", "web/web-flat.vmdk")
	r, err := http.NewRequestWithContext(context.Background(), http.MethodHead, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(s.User, s.Password)
	client := http.Client{Transport: soapClient(t, s).DefaultTransport()}
	defer client.CloseIdleConnections()
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.ContentLength != mib || res.StatusCode != 200 {
		t.Errorf("status %d, length %d: %v", res.StatusCode, res.ContentLength, err)
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=-1", "bytes=1-2", "bytes=1-2,3-4", "bytes=9223372036854775807-", "bytes=+1-2", "bytes=--1"} {
		f.Add(s, int64(100))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		if e, err := parseRange(header, size); err == nil && (e.Offset < 0 || e.Length <= 0 || e.End() > size) {
			t.Errorf("%q of %d bytes became %+v", header, size, e)
		}
	})
}
