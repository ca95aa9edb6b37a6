package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"
)

// ControlPlane is the settings of skylift-controlplane.
type ControlPlane struct {
	// Dir keeps the database.
	Dir string `mapstructure:"dir"`
	// SealingKeyFile holds the key that seals secrets in the database. It is
	// made at the first start and belongs on another disk than Dir.
	SealingKeyFile string `mapstructure:"sealing-key-file"`
	// Listen is host:port for the SMS API and for connectors.
	Listen string `mapstructure:"listen"`
	// TLS is the server's certificate; without one, it makes one for itself,
	// keeps it in Dir and shows its fingerprint.
	TLS TLS `mapstructure:"tls"`
	// Staging is where runs lie until they have landed.
	Staging Staging `mapstructure:"staging"`
	// Target is where images go.
	Target Target `mapstructure:"target"`
	// Proxy is used towards staging.
	Proxy Proxy `mapstructure:"proxy"`
	// Lease is how long a connector may be out of touch before its runs are
	// given to another; Backoff is the pause after a failed attempt.
	Lease   time.Duration `mapstructure:"lease"`
	Backoff time.Duration `mapstructure:"backoff"`
	Log     Log           `mapstructure:"log"`
}

// TLS is a server's certificate and key, both in PEM.
type TLS struct {
	CertFile string `mapstructure:"cert-file"`
	KeyFile  string `mapstructure:"key-file"`
}

// Staging is a bucket and how it is reached. Credentials are what the AWS SDK
// finds: environment, shared files, instance role.
type Staging struct {
	Bucket string `mapstructure:"bucket"`
	Prefix string `mapstructure:"prefix"`
	Region string `mapstructure:"region"`
	// Endpoint is the URL of a server other than AWS's own; PathStyle puts
	// the bucket in the path, as most of those want it.
	Endpoint  string `mapstructure:"endpoint"`
	PathStyle bool   `mapstructure:"path-style"`
	CAFile    string `mapstructure:"ca-file"`
	// ShareCredentials hands the control plane's own keys to connectors; for
	// servers that have no temporary ones.
	ShareCredentials bool `mapstructure:"share-credentials"`
	// Compression is zstd, off, or auto: where the network is what a run waits for.
	Compression string `mapstructure:"compression"`
}

// Target is where images go.
type Target struct {
	// Local is a directory for raw disk images.
	Local string `mapstructure:"local"`
}

// LoadControlPlane reads the settings from file, environment and flags.
func LoadControlPlane(file string, flags *pflag.FlagSet) (ControlPlane, error) {
	c := ControlPlane{
		Dir: "/var/lib/skylift", SealingKeyFile: "/etc/skylift/sealing.key", Listen: ":8443",
		Lease: time.Minute, Backoff: 30 * time.Second,
		Staging: Staging{Compression: "auto", Region: "us-east-1"}, Log: Log{Level: "info"},
	}
	err := load(&c, file, flags)
	return c, err
}

func (c *ControlPlane) validate() []error {
	errs := compact(
		required("dir", c.Dir), required("sealing-key-file", c.SealingKeyFile), required("listen", c.Listen),
		required("staging.bucket", c.Staging.Bucket), required("staging.region", c.Staging.Region),
		required("target.local", c.Target.Local), c.Log.validate(),
	)
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, fmt.Errorf("tls needs both cert-file and key-file, or neither"))
	}
	if c.Staging.Endpoint != "" {
		errs = append(errs, compact(httpsURL("staging.endpoint", c.Staging.Endpoint))...)
	}
	if !slices.Contains([]string{"zstd", "off", "auto"}, c.Staging.Compression) {
		errs = append(errs, fmt.Errorf("staging.compression is %q: it can be zstd, off or auto", c.Staging.Compression))
	}
	if c.Lease < time.Second {
		errs = append(errs, fmt.Errorf("lease is %s: it must be a second at least", c.Lease))
	}
	return errs
}
