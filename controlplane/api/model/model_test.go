package model

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func models(t *testing.T) (base, extended *Model) {
	t.Helper()
	base, err := Base()
	if err != nil {
		t.Fatal(err)
	}
	if extended, err = Extended(); err != nil {
		t.Fatal(err)
	}
	return base, extended
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheExtendedModelIsASupersetOfTheBase(t *testing.T) {
	base, extended := models(t)
	if base.Metadata != extended.Metadata {
		t.Errorf("the metadata differ: %+v, %+v", base.Metadata, extended.Metadata)
	}
	if len(base.Operations) != 35 || len(extended.Operations) != 40 {
		t.Errorf("the models have %d and %d actions", len(base.Operations), len(extended.Operations))
	}
	for name, o := range base.Operations {
		if x := extended.Operations[name]; x.Name != o.Name || x.Input != o.Input || x.Output != o.Output || !slices.Equal(x.Errors, o.Errors) {
			t.Errorf("action %s differs", name)
		}
	}
	for name, s := range base.Shapes {
		x, ok := extended.Shapes[name]
		for member, ref := range s.Members {
			if x.Members[member] != ref {
				t.Errorf("member %s of %s differs", member, name)
			}
		}
		s.Members, x.Members = nil, nil
		if !ok || string(mustJSON(t, s)) != string(mustJSON(t, x)) {
			t.Errorf("shape %s differs", name)
		}
	}
	for name, o := range extended.Operations {
		for _, ref := range append([]Ref{o.Input, o.Output}, o.Errors...) {
			if _, ok := extended.Shapes[ref.Shape]; !ok || o.Name != name {
				t.Errorf("action %s has no shape %s", name, ref.Shape)
			}
		}
	}
	for name, s := range extended.Shapes {
		for member, ref := range s.Members {
			if _, ok := extended.Shapes[ref.Shape]; !ok {
				t.Errorf("member %s of %s has no shape", member, name)
			}
		}
		if s.Type == "list" && extended.Shapes[s.Member.Shape].Type == "" {
			t.Errorf("list %s has no member shape", name)
		}
	}
}

func TestTheModelTellsEveryViolation(t *testing.T) {
	_, m := models(t)
	for name, c := range map[string]struct{ shape, doc, want string }{
		"a list for a string":            {"DisassociateConnectorRequest", `{"connectorId":[]}`, "connectorId: mistyped"},
		"a required member that is null": {"DisassociateConnectorRequest", `{"connectorId":null}`, "connectorId: missing"},
		"a fraction for an integer":      {"CreateReplicationJobRequest", `{"serverId":"s","seedReplicationTime":1,"frequency":1.5}`, "frequency: mistyped"},
		"an integer of 33 bits":          {"GetServersRequest", `{"maxResults":4294967296}`, "maxResults: mistyped"},
		"a word outside the enum":        {"UpdateReplicationJobRequest", `{"replicationJobId":"j","licenseType":"FREE"}`, "licenseType: invalid (must be one of AWS, BYOL)"},
		"a text for a time":              {"UpdateReplicationJobRequest", `{"replicationJobId":"j","nextReplicationRunStartTime":"now"}`, "mistyped"},
		"a time after all years":         {"UpdateReplicationJobRequest", `{"replicationJobId":"j","nextReplicationRunStartTime":1e300}`, "invalid"},
		"a member of another case":       {"DisassociateConnectorRequest", `{"ConnectorId":"c-1","connectorId":"c-2"}`, "ConnectorId: unknown"},
		"a number in a nested list":      {"GetServersRequest", `{"vmServerAddressList":[{},{"vmId":7}]}`, "vmServerAddressList[1].vmId: mistyped"},
		"an ID of another form":          {"NotificationContext", `{"validationId":"val-1"}`, "validationId: invalid (must be of the form ^val-"},
		"a string that is too long":      {"NotificationContext", `{"statusMessage":"` + strings.Repeat("ü", 2501) + `"}`, "statusMessage: invalid (must be at most 2500 characters long)"},
	} {
		t.Run(name, func(t *testing.T) {
			var doc any
			d := json.NewDecoder(strings.NewReader(c.doc))
			d.UseNumber()
			if err := d.Decode(&doc); err != nil {
				t.Fatal(err)
			}
			_, violations := m.Check(c.shape, doc)
			if len(violations) == 0 || !strings.Contains(violations[0].String(), c.want) {
				t.Errorf("got %v, want %s", violations, c.want)
			}
		})
	}
}
