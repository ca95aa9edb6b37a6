package vsphere_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor/vsphere"
	"skylift/internal/secret"
	"skylift/internal/simulator/vcenter"
)

func TestARefusedPasswordIsNotTriedAgainAtOnce(t *testing.T) {
	p := newPlatform(t)
	c := p.config()
	now := time.Now()
	c.Password = secret.New("wrong: ß\"&<")
	c.Now = func() time.Time { return now }
	s, _ := p.source(t, c)
	for range 3 {
		_, _, err := s.Held(t.Context())
		has(t, err, vsphere.LoginRefused)
		if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is in %q", err)
		}
	}
	if n := p.Calls()["Login"]; n != 1 {
		t.Errorf("vSphere was asked %d times", n)
	}
	now = now.Add(2 * time.Minute)
	_, _, err := s.Held(t.Context())
	has(t, err, vsphere.LoginRefused)
	if n := p.Calls()["Login"]; n != 2 {
		t.Errorf("two minutes later vSphere was asked %d times in all", n)
	}
}

func TestAnUntrustedCertificateIsNotAskedTwice(t *testing.T) {
	p := newPlatform(t)
	c := p.config()
	c.TLS = &tls.Config{}
	s, _ := p.source(t, c)
	start := time.Now()
	_, _, err := s.Held(t.Context())
	has(t, err, vsphere.Unreachable)
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) || time.Since(start) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestASessionIsLeftBehindByNobody(t *testing.T) {
	p := newPlatform(t)
	s, stop := p.source(t, p.config())
	_, _, err := s.Held(t.Context())
	must(t, err)
	stop()
	if n := p.Calls()["Logout"]; n != 1 {
		t.Errorf("logged out %d times", n)
	}
	if _, _, err := s.Held(t.Context()); err == nil {
		t.Error("a closed source still answers")
	}
}

func TestManyCallersShareALogin(t *testing.T) {
	p := newPlatform(t)
	s, _ := p.source(t, p.config())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, _, err := s.Held(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := p.Calls()["Login"]; n != 1 {
		t.Errorf("logged in %d times", n)
	}
}

func TestAnIdleSessionIsKeptAlive(t *testing.T) {
	beats := make(chan int, 100)
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			if call.Method == "CurrentTime" {
				select {
				case beats <- call.N:
				default: // the test is over
				}
			}
			return nil
		}
	})
	c := p.config()
	c.Limits.KeepAlive = 10 * time.Millisecond
	s, _ := p.source(t, c)
	_, _, err := s.Held(t.Context())
	must(t, err)
	<-beats
	p.Server.ExpireSessions()
	for logins := p.Calls()["Login"]; logins < 2; logins = p.Calls()["Login"] {
		<-beats // a beat that meets an expired session logs in
	}
}
