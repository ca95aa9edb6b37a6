package config

import (
	"fmt"
	"net/url"
	"reflect"
	"time"

	"github.com/spf13/pflag"

	"skylift/internal/bandwidth"
)

// Connector is the settings of skylift-connector.
type Connector struct {
	// Dir keeps the connector's identity. Nothing else is kept.
	Dir string `mapstructure:"dir"`
	// Name is shown to people; the host's name by default.
	Name string `mapstructure:"name"`
	// ActivationCodeFile holds the one-time code that enrols the connector.
	// It may be deleted when the connector is enrolled.
	ActivationCodeFile SecretFile `mapstructure:"activation-code-file"`
	// ControlPlane is whom the connector works for.
	ControlPlane ControlPlaneAddress `mapstructure:"control-plane"`
	// Proxy is used towards the control plane and staging, and towards
	// sources unless Proxy.Except has them.
	Proxy Proxy `mapstructure:"proxy"`
	// VSphere lists vCenters and standalone ESXi hosts.
	VSphere []VSphere `mapstructure:"vsphere"`
	// Staging is for a connector that has credentials of its own.
	Staging ConnectorStaging `mapstructure:"staging"`
	// Bandwidth bounds what is sent to staging. It is the one setting that is
	// followed while the connector runs.
	Bandwidth Bandwidth `mapstructure:"bandwidth"`
	// Slots is how many runs are under way at once.
	Slots int `mapstructure:"slots"`
	// MemoryMiB bounds the buffers of all transfers together.
	MemoryMiB int64 `mapstructure:"memory-mib"`
	// Parallel is how many pieces of one disk are under way at once.
	Parallel int `mapstructure:"parallel"`
	// ReportEvery is how often progress is reported.
	ReportEvery time.Duration `mapstructure:"report-every"`
	// SweepEvery is how often sources are searched for snapshots of ours that
	// no run needs any more.
	SweepEvery time.Duration `mapstructure:"sweep-every"`
	Log        Log           `mapstructure:"log"`
}

// ControlPlaneAddress is where the control plane is, and how it is known.
type ControlPlaneAddress struct {
	URL   string `mapstructure:"url"`
	Trust `mapstructure:",squash"`
}

// VSphere is one vCenter or standalone ESXi host.
type VSphere struct {
	URL          string     `mapstructure:"url"`
	User         string     `mapstructure:"user"`
	PasswordFile SecretFile `mapstructure:"password-file"`
	Trust        `mapstructure:",squash"`
	// QuiesceTimeout is how long a guest may take to come to rest for a
	// snapshot before that is given up, where a job prefers it; five times as
	// long where a job requires it. Zero stands for a minute.
	QuiesceTimeout time.Duration `mapstructure:"quiesce-timeout"`
	// NBD is an NBD server that gives frozen disks which the datastores refuse.
	NBD NBD `mapstructure:"nbd"`
}

// NBD is an NBD server: nbdkit with its vddk plugin, run by the customer.
type NBD struct {
	// URL is nbds://host:port/export, with {snapshot} and {file} or {disk} in
	// the export's name; {vm} and {host} are known as well.
	URL   string `mapstructure:"url"`
	Trust `mapstructure:",squash"`
	// CertificateFile and KeyFile hold what the connector shows to a server
	// that asks for it, both in PEM.
	CertificateFile string `mapstructure:"certificate-file"`
	KeyFile         string `mapstructure:"key-file"`
	// Plain allows nbd://, which is without TLS.
	Plain bool `mapstructure:"plain"`
}

// ConnectorStaging says how the connector reaches the staging bucket.
type ConnectorStaging struct {
	// OwnCredentials has the connector use what the AWS SDK finds on its
	// machine, and not what the control plane sends.
	OwnCredentials bool `mapstructure:"own-credentials"`
	// CAFile holds PEM certificates trusted for the bucket's server besides
	// the system's: those of a proxy that inspects TLS, for example.
	CAFile string `mapstructure:"ca-file"`
}

// Bandwidth bounds what a connector sends to staging, all runs together.
type Bandwidth struct {
	// Limit is one limit or a weekly timetable, as bandwidth.Parse reads it.
	Limit string `mapstructure:"limit"`
	// TimeZone is whose clocks the timetable goes by, an IANA name such as
	// Europe/Berlin; the machine's own by default.
	TimeZone string `mapstructure:"time-zone"`
}

// Timetable is what the settings mean.
func (b Bandwidth) Timetable() (bandwidth.Timetable, error) {
	zone := time.Local
	if b.TimeZone != "" {
		var err error
		if zone, err = time.LoadLocation(b.TimeZone); err != nil {
			return bandwidth.Timetable{}, fmt.Errorf("bandwidth.time-zone: %w", err)
		}
	}
	table, err := bandwidth.Parse(b.Limit, zone)
	if err != nil {
		return bandwidth.Timetable{}, fmt.Errorf("bandwidth.limit: %w", err)
	}
	return table, nil
}

func (b Bandwidth) validate() error {
	_, err := b.Timetable()
	return err
}

// DefaultConnector returns the settings as they are where nothing is set.
func DefaultConnector() Connector {
	return Connector{
		Dir: "/var/db/skylift/connector", Slots: 8, MemoryMiB: 96, Parallel: 8,
		ReportEvery: 5 * time.Second, SweepEvery: time.Minute,
		Bandwidth: Bandwidth{Limit: "off"}, Log: Log{Level: "info"},
	}
}

// LoadConnector reads the settings from file, environment and flags.
func LoadConnector(file string, flags *pflag.FlagSet) (Connector, error) {
	c := DefaultConnector()
	err := load(&c, file, flags)
	return c, err
}

// Restart names the settings that are other than in running and are not
// followed before the connector is started anew.
func (c Connector) Restart(running Connector) []string {
	c.Bandwidth = running.Bandwidth
	return differing(reflect.ValueOf(c), reflect.ValueOf(running), "")
}

func (c *Connector) validate() []error {
	errs := compact(
		required("dir", c.Dir),
		httpsURL("control-plane.url", c.ControlPlane.URL),
		c.Log.validate(),
		c.Bandwidth.validate(),
		within("slots", int64(c.Slots), 1, 256),
		within("memory-mib", c.MemoryMiB, 48, 65536),
		within("parallel", int64(c.Parallel), 1, 64),
	)
	if c.SweepEvery < time.Second {
		errs = append(errs, fmt.Errorf("sweep-every is %s: it must be a second at least", c.SweepEvery))
	}
	if len(c.VSphere) == 0 {
		errs = append(errs, fmt.Errorf("vsphere names no vCenter and no ESXi host"))
	}
	for i, v := range c.VSphere {
		prefix := fmt.Sprintf("vsphere[%d].", i)
		errs = append(errs, compact(
			httpsURL(prefix+"url", v.URL), required(prefix+"user", v.User), required(prefix+"password-file", string(v.PasswordFile)),
			v.quiesce(prefix), v.NBD.validate(prefix+"nbd."))...)
	}
	return errs
}

// quiesce errs unless the time-out is one that a guest can come to rest in
// without being frozen for as long as its applications notice.
func (v VSphere) quiesce(prefix string) error {
	if v.QuiesceTimeout != 0 && (v.QuiesceTimeout < 5*time.Second || v.QuiesceTimeout > 15*time.Minute) {
		return fmt.Errorf("%squiesce-timeout is %s: it must be between 5s and 15m", prefix, v.QuiesceTimeout)
	}
	return nil
}

func (n NBD) validate(prefix string) error {
	if n == (NBD{}) {
		return nil
	}
	u, err := url.Parse(n.URL)
	switch {
	case n.URL == "":
		return required(prefix+"url", n.URL)
	case err != nil:
		return fmt.Errorf("%surl is no URL", prefix)
	case u.User != nil:
		return fmt.Errorf("%surl holds a user or a password, which NBD has not", prefix)
	case u.Scheme != "nbds" && u.Scheme != "nbd" || u.Hostname() == "":
		return fmt.Errorf("%surl must begin with nbds:// and name a host", prefix)
	case u.Scheme == "nbd" && !n.Plain:
		return fmt.Errorf("%surl begins with nbd://, which is not encrypted: use nbds://, or set %splain to true", prefix, prefix)
	case u.Scheme == "nbd" && n != (NBD{URL: n.URL, Plain: true}):
		return fmt.Errorf("%surl begins with nbd://, which is without TLS, and there are settings for TLS", prefix)
	case (n.CertificateFile == "") != (n.KeyFile == ""):
		return fmt.Errorf("%scertificate-file and key-file belong together", prefix)
	}
	return nil
}

func within(name string, value, low, high int64) error {
	if value < low || value > high {
		return fmt.Errorf("%s is %d, which is not between %d and %d", name, value, low, high)
	}
	return nil
}
