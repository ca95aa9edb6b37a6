package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"skylift/internal/bandwidth"
	"skylift/internal/problem"
)

const connectorFile = `
control-plane:
  url: https://skylift.example.com:8443
  fingerprint: "ab:cd"
vsphere:
  - url: https://vcenter.example.com
    user: DOM\svc
    password-file: /run/secrets/vcenter
slots: 3
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettingsComeFromFileEnvironmentAndFlagsInThatOrder(t *testing.T) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.String("dir", "ignored-default", "")
	flags.String("control-plane.url", "", "")
	path := write(t, connectorFile)
	c, err := LoadConnector(path, flags)
	if err != nil {
		t.Fatal(err)
	}
	if c.Slots != 3 || c.ControlPlane.URL != "https://skylift.example.com:8443" || c.ControlPlane.Fingerprint != "ab:cd" ||
		c.VSphere[0].User != `DOM\svc` || c.Dir != "/var/db/skylift/connector" || c.ReportEvery != 5*time.Second {
		t.Errorf("from the file and defaults: %+v", c)
	}
	t.Setenv("SKYLIFT_SLOTS", "5")
	t.Setenv("SKYLIFT_CONTROL_PLANE_URL", "https://env.example.com")
	t.Setenv("SKYLIFT_REPORT_EVERY", "1500ms")
	t.Setenv("SKYLIFT_CONTROL_PLANE_FINGERPRINT", "ef")
	if c, err = LoadConnector(path, flags); err != nil {
		t.Fatal(err)
	}
	if c.Slots != 5 || c.ControlPlane.URL != "https://env.example.com" || c.ReportEvery != 1500*time.Millisecond || c.ControlPlane.Fingerprint != "ef" {
		t.Errorf("the environment does not override the file: %+v", c)
	}
	if err := flags.Parse([]string{"--control-plane.url", "https://flag.example.com", "--dir", "/flag"}); err != nil {
		t.Fatal(err)
	}
	if c, err = LoadConnector(path, flags); err != nil {
		t.Fatal(err)
	}
	if c.ControlPlane.URL != "https://flag.example.com" || c.Dir != "/flag" {
		t.Errorf("flags do not override the environment: %+v", c)
	}
}

// withNBD has settings with an NBD server.
func withNBD(settings string) string {
	return strings.Replace(connectorFile, "    password-file: /run/secrets/vcenter\n", "    password-file: /run/secrets/vcenter\n    nbd: "+flow(settings)+"\n", 1)
}

func flow(settings string) string {
	if strings.HasPrefix(settings, "{") {
		return settings
	}
	name, value, _ := strings.Cut(settings, ": ")
	return "{" + name + ": \"" + value + "\"}"
}

func TestNBDServersAreTaken(t *testing.T) {
	for _, settings := range []string{
		"url: nbds://nbd.example.com/{snapshot}/{file}",
		"{url: \"nbds://nbd/{snapshot}/{file}\", ca-file: a, fingerprint: b, certificate-file: c, key-file: d}",
		"{url: \"nbd://nbd/{snapshot}/{file}\", plain: true}",
	} {
		c, err := LoadConnector(write(t, withNBD(settings)), nil)
		if err != nil || !strings.Contains(settings, c.VSphere[0].NBD.URL) || c.VSphere[0].NBD.URL == "" {
			t.Errorf("%s: %+v, %v", settings, c.VSphere, err)
		}
	}
}

func TestSettingsThatCannotBeUsedAreNamed(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"an unknown name":             {connectorFile + "slotz: 1\n", "slotz"},
		"an unknown name in a list":   {strings.Replace(connectorFile, "user:", "usr:", 1), "usr"},
		"no YAML":                     {"a: [", "settings.yaml"},
		"a number that is none":       {strings.Replace(connectorFile, "slots: 3", "slots: many", 1), "slots"},
		"a number out of range":       {strings.Replace(connectorFile, "slots: 3", "slots: 0", 1), "slots is 0"},
		"sweeps without a pause":      {connectorFile + "sweep-every: 0s\n", "sweep-every is 0s"},
		"a URL without TLS":           {strings.Replace(connectorFile, "https://vcenter", "http://vcenter", 1), "vsphere[0].url must begin with https://"},
		"a password in a URL":         {strings.Replace(connectorFile, "https://vcenter", "https://u:hunter2@vcenter", 1), "vsphere[0].url holds a user or a password"},
		"an NBD server without TLS":   {withNBD("url: nbd://nbd/{snapshot}/{file}"), "vsphere[0].nbd.url begins with nbd://, which is not encrypted"},
		"plain NBD with TLS":          {withNBD("{url: \"nbd://nbd/{snapshot}/{file}\", plain: true, ca-file: x}"), "settings for TLS"},
		"an NBD server of the web":    {withNBD("url: https://nbd/{snapshot}/{file}"), "must begin with nbds://"},
		"an NBD server without name":  {withNBD("plain: true"), "vsphere[0].nbd.url is not set"},
		"a certificate without key":   {withNBD("{url: \"nbds://nbd/{snapshot}/{file}\", certificate-file: x}"), "belong together"},
		"no vCenter":                  {"control-plane: {url: https://x}\n", "names no vCenter"},
		"no control plane":            {"vsphere: []\n", "control-plane.url is not set"},
		"a log level that is none":    {connectorFile + "log: {level: loud}\n", "log.level"},
		"a timetable that is none":    {connectorFile + "bandwidth: {limit: '25:00,1M'}\n", "bandwidth.limit"},
		"a time zone that is none":    {connectorFile + "bandwidth: {limit: 1M, time-zone: Berlin}\n", "bandwidth.time-zone"},
		"a quiesce time-out of hours": {strings.Replace(connectorFile, "user:", "quiesce-timeout: 2h\n    user:", 1), "quiesce-timeout is 2h0m0s"},
	} {
		_, err := LoadConnector(write(t, test.text), nil)
		if !problem.Has(err, Invalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the password is in the message: %v", name, err)
		}
	}
	if _, err := LoadConnector("/nonexistent/settings.yaml", nil); !problem.Has(err, Invalid) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestTheBandwidthIsATimetableInAZone(t *testing.T) {
	now := time.Date(2025, 7, 7, 7, 30, 0, 0, time.UTC) // a Monday; 09:30 in Berlin
	for text, want := range map[string]bandwidth.Limit{
		"":                         bandwidth.Unlimited,
		"bandwidth: {limit: off}":  bandwidth.Unlimited,
		"bandwidth: {limit: 0}":    bandwidth.Unlimited,
		"bandwidth: {limit: 512}":  512 << 10,
		"bandwidth: {limit: 1.5M}": 3 << 19,
		"bandwidth:\n  limit: >-\n    Mon-09:00,20M\n    Mon-19:00,off\n  time-zone: Europe/Berlin": 20 << 20,
		"bandwidth: {limit: 'Mon-09:00,20M Mon-19:00,off', time-zone: UTC}":                         bandwidth.Unlimited,
	} {
		c, err := LoadConnector(write(t, connectorFile+text+"\n"), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		table, err := c.Bandwidth.Timetable()
		if got := table.At(now); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestSettingsThatNeedARestartAreNamed(t *testing.T) {
	running, err := LoadConnector(write(t, connectorFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := LoadConnector(write(t, strings.NewReplacer("slots: 3", "slots: 4", `"ab:cd"`, `"ef"`, "svc", "other").Replace(connectorFile)+
		"bandwidth: {limit: 1M}\nlog: {json: true}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(changed.Restart(running), " "); got != "control-plane.fingerprint vsphere slots log.json" {
		t.Errorf("changed: %s", got)
	}
	if got := running.Restart(running); len(got) != 0 {
		t.Errorf("nothing is changed, and yet: %q", got)
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	_, err := LoadControlPlane(write(t, "tls: {cert-file: a}\nlease: 1ms\nstaging: {compression: gzip, endpoint: ftp://x}\n"), nil)
	for _, want := range []string{"staging.bucket", "target.local", "tls needs both", "lease is 1ms", "compression is \"gzip\"", "staging.endpoint"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
}

func TestASecretFileLosesOneLineEndOnly(t *testing.T) {
	for text, want := range map[string]string{"a": "a", "a\n": "a", "a\r\n": "a", "a\n\n": "a\n", " p@ss:w/rd%ü ": " p@ss:w/rd%ü ", "": ""} {
		got, err := SecretFile(write(t, text)).Read()
		if err != nil || got.Reveal() != want {
			t.Errorf("%q is read as %q, %v", text, got.Reveal(), err)
		}
	}
	if got, err := SecretFile("").Read(); err != nil || !got.Empty() {
		t.Errorf("no file: %v", err)
	}
	if _, err := SecretFile("/nonexistent").Read(); !problem.Has(err, Invalid) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := SecretFile(write(t, strings.Repeat("x", maxSecret+1))).Read(); !problem.Has(err, Invalid) {
		t.Errorf("a huge file: %v", err)
	}
}
