package dial

import (
	"strings"
	"testing"

	"skylift/internal/problem"
	"skylift/internal/secret"
)

func TestAProxyThatCannotWorkIsRefused(t *testing.T) {
	const hidden = "hidden-word"
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		proxy Proxy
		want  string // in the error; "" is accepted
	}{
		"none":                          {Proxy{}, ""},
		"HTTP":                          {Proxy{URL: "http://proxy.corp:3128"}, ""},
		"a scheme in upper case":        {Proxy{URL: "HTTP://proxy.corp:3128/"}, ""},
		"SOCKS5 without a port":         {Proxy{URL: "socks5h://proxy.corp"}, ""},
		"IPv6":                          {Proxy{URL: "https://[2001:db8::1]:443"}, ""},
		"a user without a password":     {Proxy{URL: "http://proxy:1", User: "u"}, ""},
		"any password":                  {Proxy{URL: "http://proxy:1", User: "u", Password: secret.New(":@/%\x00\n€")}, ""},
		"exceptions":                    {Proxy{URL: "http://proxy:1", Except: "corp.example, .lan,10.0.0.0/8 ,192.0.2.1:443,fd00::/8,*.local,"}, ""},
		"no scheme":                     {Proxy{URL: "proxy.corp:3128"}, "does not begin with"},
		"a host alone":                  {Proxy{URL: "proxy.corp"}, "does not begin with"},
		"SOCKS4":                        {Proxy{URL: "socks4://proxy:1080"}, "does not begin with"},
		"a misspelled scheme":           {Proxy{URL: "htpp://proxy:1080"}, "does not begin with"},
		"no host":                       {Proxy{URL: "http://:3128"}, "host is missing"},
		"port 0":                        {Proxy{URL: "http://proxy:0"}, "port"},
		"port 65536":                    {Proxy{URL: "http://proxy:65536"}, "port"},
		"a path":                        {Proxy{URL: "http://proxy:3128/proxy.pac"}, "more than"},
		"a password in the URL":         {Proxy{URL: "http://u:" + hidden + "@proxy:3128"}, "own fields"},
		"a password that breaks it":     {Proxy{URL: "http://u:" + hidden + "%zz@proxy:3128"}, "not a URL"},
		"a password, no scheme":         {Proxy{URL: "u:" + hidden + "@proxy:3128"}, "own fields"},
		"a user with a colon":           {Proxy{URL: "http://proxy:1", User: "a:b", Password: secret.New(hidden)}, "colon"},
		"a user with a colon, SOCKS5":   {Proxy{URL: "socks5://proxy:1", User: "a:b", Password: secret.New(hidden)}, ""},
		"no UTF-8":                      {Proxy{URL: "http://proxy:1", User: "u", Password: secret.New(hidden + "\xff")}, "UTF-8"},
		"a password without a user":     {Proxy{URL: "http://proxy:1", Password: secret.New(hidden)}, "without a user"},
		"a user without a proxy":        {Proxy{User: "u", Password: secret.New(hidden)}, "without a proxy"},
		"no password for SOCKS5":        {Proxy{URL: "socks5://proxy:1", User: "u"}, "1 to 255"},
		"too long a password, SOCKS5":   {Proxy{URL: "socks5://proxy:1", User: "u", Password: secret.New(hidden + long)}, "1 to 255"},
		"exceptions apart by spaces":    {Proxy{URL: "http://proxy:1", Except: "a.corp b.corp"}, "separated by commas"},
		"exceptions apart by semicolon": {Proxy{URL: "http://proxy:1", Except: "a.corp;b.corp"}, "separated by commas"},
		"a URL among exceptions":        {Proxy{URL: "http://proxy:1", Except: "https://a.corp"}, "separated by commas"},
		"a range that is none":          {Proxy{URL: "http://proxy:1", Except: "10.0.0.0/33"}, "CIDR"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Settings{Proxy: c.proxy}.Validate()
			if _, made := NewTransport(Settings{Proxy: c.proxy}); (made == nil) != (err == nil) {
				t.Errorf("Validate says %v, NewTransport %v", err, made)
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantProblem(t, err, ProxyInvalid, c.want)
			if strings.Contains(problem.Describe(err), hidden) {
				t.Errorf("the password leaked: %v", err)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	err := Settings{Proxy: Proxy{URL: "x"}, CA: []byte("x"), Fingerprint: "x", IdleTimeout: -1}.Validate()
	for _, kind := range []*problem.Kind{ProxyInvalid, CAInvalid, FingerprintInvalid, LimitsInvalid} {
		if !problem.Has(err, kind) {
			t.Errorf("%s is missing in: %v", kind.Code, err)
		}
	}
}

func TestExceptionsAreMatched(t *testing.T) {
	for _, c := range []struct {
		list, addr string
		want       bool
	}{
		{"", "vcenter.corp:443", false},
		{"corp", "vcenter.corp:443", true},
		{".corp", "vcenter.corp:443", true},
		{".corp", "corp:443", false},
		{"vcenter.corp:443", "VCENTER.corp:443", true},
		{"vcenter.corp:443", "vcenter.corp:8443", false},
		{"10.0.0.0/8", "10.1.2.3:443", true},
		{"10.0.0.0/8", "11.1.2.3:443", false},
		{"fd00::/8", "[fd00::1]:443", true},
		{"*", "vcenter.corp:443", true},
		{"", "127.0.0.1:443", false},
		{"", "localhost:443", false},
		{"*", "localhost:443", true},
		{"a.corp, LOCALHOST", "localhost:443", true},
		{"127.0.0.1", "127.0.0.1:443", true},
		{"127.0.0.1:443", "127.0.0.1:443", true},
		{"127.0.0.1:444", "127.0.0.1:443", false},
		{"127.0.0.0/8", "127.1.2.3:443", true},
		{"::1", "[::1]:443", true},
	} {
		if got := exceptions(c.list)(c.addr); got != c.want {
			t.Errorf("%q for %s: %t", c.list, c.addr, got)
		}
	}
}

func FuzzProxySettings(f *testing.F) {
	f.Add("http://proxy:3128", "user", "password", "10.0.0.0/8,*.corp", "destination.test:443")
	f.Add("socks5://[::1]", "", "", "*", "[::1]:443")
	f.Fuzz(func(t *testing.T, url, user, password, except, addr string) {
		u, err := Proxy{URL: url, User: user, Password: secret.New(password), Except: except}.parse()
		if err == nil && u != nil && (u.Port() == "" || u.Hostname() == "" || u.User != nil) {
			t.Errorf("%q was taken as %s", url, u)
		}
		exceptions(except)(addr)
	})
}
