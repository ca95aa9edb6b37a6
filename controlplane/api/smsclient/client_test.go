package smsclient

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"skylift/controlplane/api/sms"
	"skylift/internal/secret"
)

func client(t *testing.T, endpoint string, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Config{Endpoint: s.URL + endpoint, Region: "eu-west-1", AccessKeyID: "KEY1", Secret: secret.New("secret")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnAnswerThatIsNotTheAPIsSaysSo(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		body      string
		want      string
		temporary bool
	}{
		"a proxy's page":           {http.StatusBadGateway, "<html>bad gateway</html>", "HTTP 502 Bad Gateway; check the endpoint and the proxy", true},
		"a page instead of JSON":   {http.StatusOK, "<html>welcome</html>", "is http://127.0.0.1", false},
		"a redirect":               {http.StatusFound, "", "HTTP 302", false},
		"an error of another form": {http.StatusForbidden, `{"error":"x"}`, "HTTP 403", false},
		"a list":                   {http.StatusOK, `[]`, "decode the response", false},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			c := client(t, "/", func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := c.GetConnectors(t.Context(), sms.GetConnectorsRequest{})
			if err == nil || !strings.Contains(err.Error(), test.want) || calls != 1 {
				t.Errorf("after %d calls: %v", calls, err)
			}
			if e := (*Error)(nil); errors.As(err, &e) && e.Temporary() != test.temporary {
				t.Errorf("is %v worth retrying? %v", err, e.Temporary())
			}
		})
	}
}

func TestAPageTokenThatRepeatsEndsTheListing(t *testing.T) {
	calls := 0
	c := client(t, "", func(w http.ResponseWriter, _ *http.Request) {
		calls++
		_, _ = io.WriteString(w, `{"serverList":[{"serverId":"s-1"}],"nextToken":"again"}`)
	})
	n := 0
	var last error
	for _, err := range c.Servers(t.Context()) {
		if last = err; err == nil {
			n++
		}
	}
	if n != 2 || calls != 2 || last == nil {
		t.Errorf("%d servers after %d calls, %v", n, calls, last)
	}
	calls = 0
	for range c.Servers(t.Context()) {
		break
	}
	if calls != 1 {
		t.Errorf("%d calls for one server", calls)
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	good := Config{Endpoint: "https://skylift.example/sms", Region: "eu-west-1", AccessKeyID: "KEY1", Secret: secret.New("secret")}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no scheme":      func(c *Config) { c.Endpoint = "skylift.example" },
		"another scheme": func(c *Config) { c.Endpoint = "ftp://skylift.example" },
		"a password":     func(c *Config) { c.Endpoint = "https://a:b@skylift.example" },
		"a query":        func(c *Config) { c.Endpoint = "https://skylift.example/?a=b" },
		"a broken URL":   func(c *Config) { c.Endpoint = "https://[" },
		"no Region":      func(c *Config) { c.Region = "" },
		"no access key":  func(c *Config) { c.AccessKeyID = "" },
		"no secret":      func(c *Config) { c.Secret = secret.Text{} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			spoil(&bad)
			if _, err := New(bad); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func TestErrorsOfNoCodeAreNotAlike(t *testing.T) {
	if errors.Is(&Error{Status: 502}, &Error{Status: 502}) {
		t.Error("two answers of strangers are the same error")
	}
}
