package secret

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestASecretNeverPrints(t *testing.T) {
	type account struct{ Password Text }
	const value = "p@ss:w/rd%ü"
	a := account{New(value)}
	out := new(strings.Builder)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(out, verb+" "+verb+" "+verb+"\n", a, &a, a.Password)
	}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	log := logrus.New()
	log.SetOutput(out)
	log.WithField("password", a.Password).WithField("account", a).Info("x")
	log.SetFormatter(&logrus.JSONFormatter{})
	log.WithField("password", a.Password).WithField("account", a).Info("x")
	for _, form := range []string{value, "p@ss", fmt.Sprintf("%x", value), fmt.Sprintf("%X", value)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret leaked as %q:\n%s", form, out)
		}
	}
	if !strings.Contains(out.String(), Redacted) {
		t.Errorf("the redacted form is missing:\n%s", out)
	}
}

func TestEqualComparesValues(t *testing.T) {
	if !New("a").Equal(New("a")) || New("a").Equal(New("b")) || New("a").Equal(New("")) {
		t.Error("Equal does not compare values")
	}
}
