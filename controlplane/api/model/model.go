// Package model holds the SMS API's interface: its actions, their shapes and
// errors, and checks JSON documents against it.
//
// There are two models, both in botocore's service-2 form. The base model is
// that of AWS SMS. The extended model adds Skylift's optional members and its
// own actions to it;
// its folder, given as AWS_DATA_PATH, teaches them to the AWS CLI and to
// boto3:
//
//	AWS_DATA_PATH=controlplane/api/model aws sms ... --endpoint-url https://...
package model

import (
	"embed"
	"encoding/json"
	"fmt"
)

//go:embed sms-2016-10-24.json sms/2016-10-24/service-2.json
var files embed.FS

// Model is a service's interface.
type Model struct {
	Metadata   Metadata             `json:"metadata"`
	Operations map[string]Operation `json:"operations"`
	Shapes     map[string]Shape     `json:"shapes"`
}

// Metadata says how the service is spoken to.
type Metadata struct {
	EndpointPrefix string `json:"endpointPrefix"`
	JSONVersion    string `json:"jsonVersion"`
	TargetPrefix   string `json:"targetPrefix"`
}

// Operation is one action.
type Operation struct {
	Name   string `json:"name"`
	Input  Ref    `json:"input"`
	Output Ref    `json:"output"`
	Errors []Ref  `json:"errors"`
}

// Lists reports whether the action may answer with the error.
func (o Operation) Lists(code string) bool {
	for _, e := range o.Errors {
		if e.Shape == code {
			return true
		}
	}
	return false
}

// Ref names a shape.
type Ref struct {
	Shape string `json:"shape"`
}

// Shape is the form of a value. Min and Max bound a number's value and the
// length of a string in characters or of a list.
type Shape struct {
	Type      string         `json:"type"`
	Required  []string       `json:"required"`
	Members   map[string]Ref `json:"members"`
	Member    Ref            `json:"member"`
	Enum      []string       `json:"enum"`
	Min       *int64         `json:"min"`
	Max       *int64         `json:"max"`
	Pattern   string         `json:"pattern"`
	Exception bool           `json:"exception"`
	Fault     bool           `json:"fault"`
}

// Base returns the model of AWS SMS.
func Base() (*Model, error) { return read("sms-2016-10-24.json") }

// Extended returns the base model with Skylift's optional members and own actions.
func Extended() (*Model, error) { return read("sms/2016-10-24/service-2.json") }

func read(name string) (*Model, error) {
	b, err := files.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the API model: %w", err)
	}
	m := new(Model)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode the API model %s: %w", name, err)
	}
	return m, nil
}
