package image

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"format":"skylift-image","version":1,"image":"img-1","job":"sms-job-1","run":"sms-run-1","disks":[{"file":"0.raw","size":1}]}`))
	f.Add([]byte(`{"format":"skylift-image","version":1,"image":"img-1","job":"j","run":"1","disks":[{"file":"../0.raw","size":1}]}`))
	f.Add([]byte(`{"disks":[{"digest":"00"}]}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRecord(p)
		if err != nil {
			return
		}
		if r.Image != ID(r.Run) || strings.ContainsAny(r.Image, "/\\.") {
			t.Errorf("the image %q of run %q is taken", r.Image, r.Run)
		}
		for _, d := range r.Disks {
			if filepath.Join("/images/server/image", d.File) != "/images/server/image/"+d.File || d.Size <= 0 {
				t.Errorf("the file %q of %d bytes is taken", d.File, d.Size)
			}
		}
	})
}

func FuzzNamesOfServersAndDisks(f *testing.F) {
	for _, name := range []string{"web-01", "../..", "Müller & Söhne", ".work", "a/b\\c", strings.Repeat("ä", 100), "\xff"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := folder(name)
		if len(got) > 64 || !utf8.ValidString(got) || strings.ContainsAny(got, "/\\\x00") || strings.HasPrefix(got, ".") {
			t.Errorf("%q becomes %q", name, got)
		}
		taken := map[string]bool{}
		a, b := diskFile(0, name, "disk-1", taken), diskFile(0, name, "disk-2", taken)
		if strings.EqualFold(a, b) || filepath.Base(a) != a || filepath.Base(b) != b {
			t.Errorf("two disks named %q become %q and %q", name, a, b)
		}
	})
}

func TestNamesStayReadable(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"web-01": "web-01", "Müller DB": "Müller-DB", "../etc": "etc", ".work": "work", "...": "", "SQL (prod)": "SQL-prod",
	} {
		if got := folder(name); got != want {
			t.Errorf("%q becomes %q instead of %q", name, got, want)
		}
	}
}
