package config

import (
	"fmt"
	"net/url"
	"os"

	"github.com/sirupsen/logrus"
)

// Trust says how a server is known to be the right one. With neither field
// set, the system's certificate authorities decide.
type Trust struct {
	// CAFile holds PEM certificates that are trusted besides the system's.
	CAFile string `mapstructure:"ca-file"`
	// Fingerprint is the SHA-256 of the server's own certificate, in
	// hexadecimal; no other certificate is then taken.
	Fingerprint string `mapstructure:"fingerprint"`
}

// CA returns the PEM of CAFile, nil without one.
func (t Trust) CA() ([]byte, error) {
	if t.CAFile == "" {
		return nil, nil
	}
	p, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, Invalid.New(err, "read certificates")
	}
	return p, nil
}

// Proxy is the way to the outside, where there is no direct one.
type Proxy struct {
	// URL is http://host:port, https://host:port or socks5://host:port.
	URL string `mapstructure:"url"`
	// User and PasswordFile are for proxies that ask for a password.
	User         string     `mapstructure:"user"`
	PasswordFile SecretFile `mapstructure:"password-file"`
	// Except lists hosts, domains and networks that are reached directly, in
	// the syntax of NO_PROXY.
	Except string `mapstructure:"except"`
}

// Log says what a daemon writes about itself, to standard error.
type Log struct {
	// Level is error, warning, info or debug.
	Level string `mapstructure:"level"`
	// JSON writes one object per line, for machines.
	JSON bool `mapstructure:"json"`
}

// Logger makes the daemon's logger.
func (l Log) Logger() *logrus.Logger {
	log := logrus.New()
	if level, err := logrus.ParseLevel(l.Level); err == nil {
		log.SetLevel(level)
	}
	if l.JSON {
		log.SetFormatter(&logrus.JSONFormatter{})
	}
	return log
}

func (l Log) validate() error {
	_, err := logrus.ParseLevel(l.Level)
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	return nil
}

// httpsURL errs unless value is the URL of a server to be reached over TLS.
func httpsURL(name, value string) error {
	u, err := url.Parse(value)
	switch {
	case value == "":
		return required(name, value)
	case err != nil:
		return fmt.Errorf("%s is no URL", name)
	case u.User != nil:
		return fmt.Errorf("%s holds a user or a password; these have settings of their own", name)
	case u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%s must begin with https:// and name a host", name)
	}
	return nil
}
